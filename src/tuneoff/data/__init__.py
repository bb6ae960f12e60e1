"""Turns a data set into token rows and batches whose order depends on the seed alone, whatever the method."""
from tuneoff.data.batches import Batch, Pack, Plan, collate, deal, eval_batches, join, pack, starts
from tuneoff.data.loading import load
from tuneoff.data.rows import DataSet, Question, Row

__all__ = ["Batch", "DataSet", "Pack", "Plan", "Question", "Row", "collate", "deal", "eval_batches", "join", "load",
           "pack", "starts"]
