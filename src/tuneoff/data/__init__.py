"""Turns a data set into token rows and batches whose order depends on the seed alone, whatever the method."""

from tuneoff.data.batches import Batch, collate, deal, eval_batches
from tuneoff.data.dataset import DataSet, Question, Row
from tuneoff.data.loading import load
from tuneoff.data.order import Plan
from tuneoff.data.packing import Pack, join, pack, starts

__all__ = [
    "Batch",
    "DataSet",
    "Pack",
    "Plan",
    "Question",
    "Row",
    "collate",
    "deal",
    "eval_batches",
    "join",
    "load",
    "pack",
    "starts",
]
