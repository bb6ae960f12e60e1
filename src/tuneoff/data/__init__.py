"""Turns a data set into token rows and batches whose order depends on the seed alone, whatever the method."""

from tuneoff.data.batches import Batch, collate, evaluation_batches, split_between_ranks
from tuneoff.data.dataset import DataSet, Question, Row
from tuneoff.data.loading import load_dataset
from tuneoff.data.order import StepOrder, make_order
from tuneoff.data.packing import PackedRow, example_starts, join_rows, pack_rows

__all__ = [
    "Batch",
    "DataSet",
    "PackedRow",
    "Question",
    "Row",
    "StepOrder",
    "collate",
    "evaluation_batches",
    "example_starts",
    "join_rows",
    "load_dataset",
    "make_order",
    "pack_rows",
    "split_between_ranks",
]
