"""Which rows a step sees, and how they become tensors. Position alone decides, so that a resume needs no state."""
import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from tuneoff.config import derive
from tuneoff.data.rows import Row

IGNORED = -100


class Batch(NamedTuple):
    """A micro-batch, padded on the left so that the labels of all rows share the last positions."""
    input_ids: torch.Tensor  # (rows, length)
    attention_mask: torch.Tensor | None  # (rows, length); None where no row is padded
    position_ids: torch.Tensor  # (rows, length)
    keep: torch.Tensor  # (kept,) positions whose prediction is a label in some row
    labels: torch.Tensor  # (rows, kept) the token after each kept position, IGNORED where it is not trained
    tokens: int  # non-padding tokens
    label_tokens: int

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved: dict = {name: item.to(device) for name, item in self._asdict().items() if isinstance(item, torch.Tensor)}
        return self._replace(**moved)


def collate(rows: list[Row], pad: int) -> Batch:
    """Pad `rows` on the left to the longest; labels are an index made here, so that a step reads nothing back."""
    length = max(len(row.ids) for row in rows)
    input_ids = torch.full((len(rows), length), pad)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for index, row in enumerate(rows):
        size = len(row.ids)
        ids = torch.tensor(row.ids, dtype=torch.long)
        shift = length - size
        input_ids[index, shift:] = ids
        positions[index, shift:] = torch.arange(size)
        mask[index, shift:] = 1
        for start, end in row.spans:
            labels[index, shift + start:shift + end] = ids[start:end]
    labelled = (labels != IGNORED).any(0).nonzero().flatten()
    padded = any(len(row.ids) < length for row in rows)
    # The prediction of the token at position p is made at p - 1.
    return Batch(input_ids, mask if padded else None, positions, labelled - 1, labels[:, labelled],
                 sum(len(row.ids) for row in rows), sum(row.labels for row in rows))


class Plan:
    """The order of the training rows: a permutation for each epoch, from the seed alone."""

    def __init__(self, rows: list[Row], seed: int, rows_per_step: int, epochs: float | None = None):
        self.rows, self.seed, self.rows_per_step = rows, seed, rows_per_step
        # Where epochs are the budget, the last step is short instead of borrowing from an epoch nobody asked for.
        self.last = math.inf if epochs is None else max(1, round(epochs * len(rows)))
        self._epoch, self._order = -1, torch.empty(0)

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
        return max(range(1, max(2, steps)),
                   key=lambda step: max((len(row.ids) for row in self.step_rows(step)), default=0))

    def indices(self, step: int) -> list[int]:
        """Row numbers of optimizer step `step` (from 0); an epoch's end may fall inside a step."""
        start = step * self.rows_per_step
        return [self._at(place) for place in range(start, int(min(start + self.rows_per_step, self.last)))]

    def step_rows(self, step: int) -> list[Row]:
        """Rows of optimizer step `step`."""
        return [self.rows[index] for index in self.indices(step)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, f"order/{epoch}"))
            self._epoch, self._order = epoch, torch.randperm(len(self.rows), generator=generator)
        return int(self._order[place])

    def order_hash(self, steps: int = 100) -> str:
        """Sixteen hexadecimal digits over the rows of the first steps: equal where two runs see the same data."""
        digest = hashlib.sha256()
        for step in range(steps):
            for row in self.step_rows(step):
                digest.update(row.ids.tobytes())
        return digest.hexdigest()[:16]


def deal(batches: list[list[Row]], rank: int, ranks: int) -> list[list[Row]]:
    """This rank's micro-batches of a step or an evaluation: every `ranks`-th, so that neighbours run side by side.

    All ranks get equally many, since they wait for each other in each: a row without a label stands in for one.
    """
    blank = [Row(batches[0][0].ids[:1], ())]
    whole = [*batches, *[blank] * (-len(batches) % ranks)]
    return whole[rank::ranks]


def eval_batches(rows: list[Row], size: int, pad: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """All rows once, longest together, so that little is padded; a token-weighted mean does not depend on the order.

    With several `ranks`, the part of one.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for part in deal([ordered[start:start + size] for start in range(0, len(ordered), size)], rank, ranks):
        yield collate(part, pad)
