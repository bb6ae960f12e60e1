"""Initialisation from data: the seeded training batches that a method looks at before its adapters are made."""

import time
from functools import cached_property
from typing import Any

import torch

from tuneoff import data
from tuneoff.training.session import Session
from tuneoff.training.step import summed_loss


class InitialBatches:
    """The rows of a run's first steps, for a method's `initialise`; counts what the model reads of them.

    Every rank has the same rows, and so begins with the same weights.
    """

    def __init__(self, session: Session, model: Any, order: data.StepOrder, pad: int):
        self.tokens = 0  # that the model has read, without padding
        self._session = session
        self._model = model
        self._pad = pad
        self._rows: list = []
        for step in range(session.method.initial_steps):
            self._rows += order.step_rows(step)

    @cached_property
    def batches(self) -> list[data.Batch]:
        """The rows in micro-batches, on the model's device."""
        return self._collate(self._session.experiment.batch_size)

    @cached_property
    def single_rows(self) -> list[data.Batch]:
        """The same rows, each a batch of its own."""
        return self._collate(1)

    def _collate(self, size: int) -> list[data.Batch]:
        batches = []
        for start in range(0, len(self._rows), size):
            batch = data.collate(self._rows[start : start + size], self._pad)
            batches.append(batch.to(self._session.ranks.device))
        return batches

    def mean_loss(self, batch: data.Batch) -> torch.Tensor:
        """Run the model; return its loss per label token, 0-d, in training's precision."""
        self.tokens += batch.tokens
        with self._session.sharding.autocast():
            return summed_loss(self._model, batch) / batch.label_tokens


def initialise_from_data(session: Session, model: Any, order: data.StepOrder, pad: int) -> dict:
    """Let the method look at training data through the base model, where it begins from them.

    Returns:
        Facts for the record: the tokens that the model has read, and the seconds that it took.
    """
    if not session.method.initial_steps:
        return {}
    started = time.perf_counter()
    with session.peaks.phase("initialise"):
        batches = InitialBatches(session, model.to(session.ranks.device), order, pad)
        session.method.initialise(model, batches)
    seconds = time.perf_counter() - started
    return {"initialise": {"tokens": batches.tokens, "seconds": round(seconds, 3)}}
