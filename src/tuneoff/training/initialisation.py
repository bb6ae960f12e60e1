"""Initialisation from data: the seeded training batches that a method looks at before its adapters are made."""

import time
from collections.abc import Iterator
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
        wanted = [order.step_rows(step) for step in range(session.method.initial_steps)]
        self._steps = [rows for rows in wanted if rows]  # a budget of epochs may have fewer

    @property
    def steps(self) -> int:
        """How many steps' rows there are."""
        return len(self._steps)

    @cached_property
    def whole_steps(self) -> list[data.Batch]:
        """The rows of each step as one batch, however a run splits it: for what only goes forward."""
        return [self._collate(rows) for rows in self._steps]

    @cached_property
    def single_rows(self) -> list[data.Batch]:
        """The same rows, each a batch of its own."""
        batches = []
        for rows in self._steps:
            batches += [self._collate([row]) for row in rows]
        return batches

    def mean_losses(self) -> Iterator[torch.Tensor]:
        """Yield a loss for each row, 0-d, whose mean is the mean of the steps' losses.

        Row by row, so that the gradients are the same however a run splits its steps: what begins from their singular
        vectors makes much of another rounding.
        """
        for rows in self._steps:
            labels = sum(row.labels for row in rows)
            for row in rows:
                yield self.sum_loss(self._collate([row])) * len(rows) / labels

    def _collate(self, rows: list) -> data.Batch:
        return data.collate(rows, self._pad).to(self._session.ranks.device)

    def sum_loss(self, batch: data.Batch) -> torch.Tensor:
        """Run the model in the type of its weights; return its loss summed over the label tokens, 0-d.

        Without autocast: it would round what PEFT computes in the layers' hooks too, and a GPU has no QR of bfloat16.
        """
        self.tokens += batch.tokens
        return summed_loss(self._model, batch)


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
