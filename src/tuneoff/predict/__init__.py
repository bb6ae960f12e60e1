"""Peak memory of a run without its device and its weights: the code that trains, run on fake tensors."""
from tuneoff.predict.predictor import predict
from tuneoff.predict.report import show

__all__ = ["predict", "show"]
