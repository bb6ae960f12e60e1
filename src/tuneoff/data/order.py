"""The order of training rows: which rows a step sees.

Position alone decides, so that a resume needs no state. `StepOrder.step_rows` gives a step's rows.
"""

import hashlib
import math
from collections.abc import Sequence

import torch

from tuneoff.config import Experiment, derive_seed
from tuneoff.data.dataset import Row
from tuneoff.data.packing import PackedRow, pack_rows

# Steps whose rows are sorted together; LengthGroupedSampler of transformers takes as many.
GROUPED_STEPS = 50


class StepOrder:
    """The order of the training rows: a permutation for each epoch, from the seed alone, or none."""

    def __init__(
        self,
        rows: Sequence[Row | PackedRow],
        seed: int,
        rows_per_step: int,
        epochs: float | None = None,
        grouped: bool = False,
        shuffled: bool = True,
    ):
        """Take the rows of one epoch.

        Args:
            rows: the training set, packed or not.
            seed: of the run.
            rows_per_step: rows of an optimizer step, over all ranks and micro-batches.
            epochs: where epochs are the budget. The last step is then short, instead of taking
                rows from an epoch nobody asked for.
            grouped: whether the rows of a step are of like length.
            shuffled: whether an epoch's order is drawn; else it is that of `rows`.
        """
        self.rows = rows
        self.seed = seed
        self.rows_per_step = rows_per_step
        self.grouped = grouped
        self.shuffled = shuffled
        self.total_rows = math.inf
        if epochs is not None:
            self.total_rows = max(1, round(epochs * len(rows)))
        self._epoch = -1
        self._permutation: list[int] = []

    def count_steps(self, kind: str, value: float) -> float:
        """Return the optimizer steps of a budget; infinite for `max_seconds`.

        Args:
            kind: `max_steps`, `epochs`, `max_tokens` or `max_seconds`.
            value: the budget's size.
        """
        if kind == "max_steps":
            return value
        if kind == "epochs":
            return math.ceil(self.total_rows / self.rows_per_step)
        if kind == "max_seconds":
            return math.inf
        steps = 0
        tokens = 0
        while tokens < value:
            tokens += sum(len(row.ids) for row in self.step_rows(steps))
            steps += 1
        return steps

    def find_longest_step(self, steps: int) -> int:
        """Return which of the first `steps` holds the longest row: where memory is highest.

        The very first step is left out, unless it is the only one.
        """

        def memory_order(step: int) -> tuple[int, int]:
            lengths = [len(row.ids) for row in self.step_rows(step)]
            return max(lengths, default=0), sum(lengths)

        return max(range(1, max(2, steps)), key=memory_order)

    def indices(self, step: int) -> list[int]:
        """Return the row numbers of optimizer step `step` (from 0).

        An epoch's end may fall inside a step.
        """
        start = step * self.rows_per_step
        end = int(min(start + self.rows_per_step, self.total_rows))
        return [self._row_at(position) for position in range(start, end)]

    def step_rows(self, step: int) -> list[Row | PackedRow]:
        """Return the rows of optimizer step `step`, the longest first.

        Micro-batches then pad little, and the step's sum is the same.
        """
        rows = [self.rows[index] for index in self.indices(step)]
        return sorted(rows, key=lambda row: -len(row.ids))

    def order_hash(self, steps: int = 100) -> str:
        """Return 16 hexadecimal digits that are equal where two runs see the same rows.

        Args:
            steps: how many steps are hashed, from the first.
        """
        digest = hashlib.sha256()
        for step in range(steps):
            for row in self.step_rows(step):
                digest.update(row.ids.tobytes())
        return digest.hexdigest()[:16]

    def _row_at(self, position: int) -> int:
        epoch, place_in_epoch = divmod(position, len(self.rows))
        if epoch != self._epoch:
            self._permutation = self._draw_permutation(epoch)
            self._epoch = epoch
        return self._permutation[place_in_epoch]

    def _draw_permutation(self, epoch: int) -> list[int]:
        if not self.shuffled:
            return list(range(len(self.rows)))
        seed = derive_seed(self.seed, f"order/{epoch}")
        generator = torch.Generator().manual_seed(seed)
        permutation = torch.randperm(len(self.rows), generator=generator).tolist()
        if self.grouped:
            # The first rows complete the step that the epoch before began.
            begin = -epoch * len(self.rows) % self.rows_per_step
            permutation = self._group(permutation, begin, generator)
        return permutation

    def _group(
        self,
        order: list[int],
        begin: int,
        generator: torch.Generator,
    ) -> list[int]:
        """Return the same rows with those of like length in one step, and the steps drawn anew.

        As in LengthGroupedSampler of transformers, at most a quarter of an epoch is sorted at
        once, so that a step's rows are others in every epoch. Rows before `begin` and after the
        last whole step stay where they are.
        """
        size = self.rows_per_step
        steps = max(0, len(order) - begin) // size
        end = begin + steps * size
        # Sort within stretches of whole steps.
        stretch = size * min(GROUPED_STEPS, max(1, steps // 4))
        by_length: list[int] = []
        for start in range(begin, end, stretch):
            rows = order[start : min(start + stretch, end)]
            by_length += sorted(rows, key=lambda index: -len(self.rows[index].ids))
        # Draw the order of the steps.
        middle: list[int] = []
        for step in torch.randperm(steps, generator=generator).tolist():
            middle += by_length[step * size : (step + 1) * size]
        return [*order[:begin], *middle, *order[end:]]


def make_order(experiment: Experiment, rows: list[Row], processes: int) -> StepOrder:
    """Return the order of the training rows, packed where the run asks for it; a step's rows are those of all ranks."""
    packed: Sequence[Row | PackedRow] = rows
    if experiment.packing:
        packed = pack_rows(rows, experiment.max_length)
    rows_per_step = experiment.batch_size * experiment.gradient_accumulation_steps * processes
    kind, value = experiment.budget
    epochs = value if kind == "epochs" else None
    return StepOrder(
        packed,
        experiment.seed,
        rows_per_step,
        epochs,
        grouped=experiment.group_by_length,
        shuffled=experiment.shuffle,
    )
