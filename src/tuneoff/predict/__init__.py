"""Prediction: peak memory of a run without its device and its weights, by the code that trains, on fake tensors."""

from tuneoff.predict.closing_table import show_prediction
from tuneoff.predict.predictor import predict

__all__ = ["predict", "show_prediction"]
