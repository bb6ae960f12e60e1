"""Peak memory of a run without its device and its weights: the code that trains, run on fake tensors."""

from tuneoff.predict.prediction import show_prediction
from tuneoff.predict.predictor import predict

__all__ = ["predict", "show_prediction"]
