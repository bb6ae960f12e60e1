"""The order of training rows: which a step sees. Position alone decides, so that a resume needs no state.

`Plan.step_rows` gives a step's rows; `group_by_length` puts rows of like length into one step.
"""

import hashlib
import math
from collections.abc import Sequence
from itertools import chain

import torch

from tuneoff.config import derive_seed
from tuneoff.data.dataset import Row
from tuneoff.data.packing import PackedRow

GROUPED_STEPS = (
    50  # steps whose rows are sorted together; LengthGroupedSampler of transformers takes as many
)


class StepOrder:
    """The order of the training rows: a permutation for each epoch, from the seed alone."""

    def __init__(
        self,
        rows: Sequence[Row | PackedRow],
        seed: int,
        rows_per_step: int,
        epochs: float | None = None,
        grouped: bool = False,
    ):
        self.rows, self.seed, self.rows_per_step, self.grouped = rows, seed, rows_per_step, grouped
        # Where epochs are the budget, the last step is short instead of borrowing from an epoch nobody asked for.
        self.last = math.inf if epochs is None else max(1, round(epochs * len(rows)))
        self._epoch, self._order = -1, []  # type: tuple[int, list[int]]

    def steps(self, kind: str, value: float) -> float:
        """Optimizer steps of a budget: `max_steps`, `epochs`, `max_tokens`; infinite for `max_seconds`."""
        if kind == "max_steps":
            return value
        if kind == "epochs":
            return math.ceil(self.last / self.rows_per_step)
        if kind == "max_seconds":
            return math.inf
        step = tokens = 0
        while tokens < value:
            tokens += sum(len(row.ids) for row in self.step_rows(step))
            step += 1
        return step

    def longest(self, steps: int) -> int:
        """The step among the first `steps`, but the very first, that holds the longest row: where memory is highest."""

        def height(step: int) -> tuple[int, int]:
            sizes = [len(row.ids) for row in self.step_rows(step)]
            return max(sizes, default=0), sum(sizes)

        return max(range(1, max(2, steps)), key=height)

    def indices(self, step: int) -> list[int]:
        """Row numbers of optimizer step `step` (from 0); an epoch's end may fall inside a step."""
        start = step * self.rows_per_step
        return [
            self._at(place)
            for place in range(start, int(min(start + self.rows_per_step, self.last)))
        ]

    def step_rows(self, step: int) -> list[Row | PackedRow]:
        """Rows of optimizer step `step`, the longest first: micro-batches pad little, the step's sum is the same."""
        return sorted(
            (self.rows[index] for index in self.indices(step)), key=lambda row: -len(row.ids)
        )

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, f"order/{epoch}"))
            order = torch.randperm(len(self.rows), generator=generator).tolist()
            if self.grouped:
                # The first rows complete the step that the epoch before began.
                order = self._group(order, -epoch * len(self.rows) % self.rows_per_step, generator)
            self._epoch, self._order = epoch, order
        return self._order[place]

    def _group(self, order: list[int], begin: int, generator: torch.Generator) -> list[int]:
        """The same rows with those of like length in one step, and the steps in drawn order.

        As in LengthGroupedSampler of transformers, at most a quarter of an epoch is sorted at once, so that a step's
        rows are others in every epoch. Rows before `begin` and after the last whole step stay where they are.
        """
        size = self.rows_per_step
        steps = max(0, len(order) - begin) // size
        end, stretch = begin + steps * size, size * min(GROUPED_STEPS, max(1, steps // 4))
        ranked: list[int] = []
        for start in range(begin, end, stretch):
            ranked += sorted(
                order[start : min(start + stretch, end)],
                key=lambda index: -len(self.rows[index].ids),
            )
        drawn = torch.randperm(steps, generator=generator).tolist()
        middle = chain.from_iterable(ranked[step * size : (step + 1) * size] for step in drawn)
        return [*order[:begin], *middle, *order[end:]]

    def order_hash(self, steps: int = 100) -> str:
        """Sixteen hexadecimal digits over the rows of the first steps: equal where two runs see the same data."""
        digest = hashlib.sha256()
        for step in range(steps):
            for row in self.step_rows(step):
                digest.update(row.ids.tobytes())
        return digest.hexdigest()[:16]
