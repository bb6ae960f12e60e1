"""Which rows a step sees, and how they become tensors. Position alone decides, so that a resume needs no state.

`Plan.step_rows` gives a step's rows, the loop cuts them into micro-batches of `batch_size` rows, and `deal` gives each
of several ranks its share of those. Two settings spare padding: `group_by_length` puts rows of like length into one
step, `packing` fills each row with several examples that do not see each other.
"""
import hashlib
import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import torch

from tuneoff.config import derive
from tuneoff.data.rows import Row

GROUPED_STEPS = 50  # steps whose rows are sorted together; LengthGroupedSampler of transformers takes as many


class Pack(NamedTuple):
    """Several examples as one row of a batch; a token sees its own example alone. Has what a `Row` has."""
    ids: array
    spans: tuple[tuple[int, int], ...]  # no example's first token is a label, so none is predicted from another example
    starts: tuple[int, ...]  # where each example begins

    @property
    def labels(self) -> int:
        """Number of label tokens."""
        return sum(end - start for start, end in self.spans)


class Batch(NamedTuple):
    """A micro-batch, padded on the right: what comes later is never attended to, so that no mask is needed."""
    input_ids: torch.Tensor  # (rows, length)
    position_ids: torch.Tensor | None  # (rows, length), from 0 in each example; None where each row is one example
    keep: torch.Tensor  # (label_tokens,) where a label is predicted, as row · length + position
    labels: torch.Tensor  # (label_tokens,) the token after each of them
    tokens: int  # non-padding tokens
    examples: int

    @property
    def label_tokens(self) -> int:
        """Number of tokens whose prediction is trained."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved: dict = {name: item.to(device) for name, item in self._asdict().items() if isinstance(item, torch.Tensor)}
        return self._replace(**moved)


def collate(rows: Sequence[Row | Pack], pad: int) -> Batch:
    """Pad `rows` to the longest; where labels are is an index made here, so that a step reads nothing back."""
    length = max(len(row.ids) for row in rows)
    packed = any(isinstance(row, Pack) for row in rows)
    input_ids = torch.full((len(rows), length), pad)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    places: list[int] = []  # of labels
    for index, row in enumerate(rows):
        input_ids[index, :len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
        for start, end in row.spans:
            places += range(index * length + start, index * length + end)
        # What is padded is an example of its own, which nothing is asked of.
        bounds = sorted({*starts(row), len(row.ids), length})
        for start, end in zip(bounds, bounds[1:], strict=False):
            positions[index, start:end] = torch.arange(end - start)
    labelled = torch.tensor(places, dtype=torch.long)
    # The prediction of the token at position p is made at p - 1.
    return Batch(input_ids, positions if packed else None, labelled - 1, input_ids.flatten()[labelled],
                 sum(len(row.ids) for row in rows), sum(len(starts(row)) for row in rows))


def starts(row: Row | Pack) -> tuple[int, ...]:
    """Where the examples of a row begin."""
    return row.starts if isinstance(row, Pack) else (0,)


def join(rows: Sequence[Row]) -> Pack:
    """One row of several examples."""
    begins = tuple(accumulate((len(row.ids) for row in rows[:-1]), initial=0))
    spans = ((begin + start, begin + end) for begin, row in zip(begins, rows, strict=True) for start, end in row.spans)
    return Pack(array("i", chain.from_iterable(row.ids for row in rows)), tuple(spans), begins)


def pack(rows: list[Row], length: int) -> list[Pack]:
    """Fill sequences of at most `length` tokens with whole examples, each of `rows` once.

    Best fit, the longest first, over all rows at once, as in TRL (`packing_strategy="bfd"`) and in the knapsack of
    LLaMA-Factory: which examples share a sequence is the same in every epoch, since none sees another.
    """
    packs: list[list[Row]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that still fit, number of the pack), in order
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        place = bisect_left(rooms, (len(row.ids), 0))
        room, number = rooms.pop(place) if place < len(rooms) else (length, len(packs))
        if number == len(packs):
            packs.append([])
        packs[number].append(row)
        insort(rooms, (room - len(row.ids), number))
    return [join(members) for members in packs]


class Plan:
    """The order of the training rows: a permutation for each epoch, from the seed alone."""

    def __init__(self, rows: Sequence[Row | Pack], seed: int, rows_per_step: int, epochs: float | None = None,
                 grouped: bool = False):
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
        return [self._at(place) for place in range(start, int(min(start + self.rows_per_step, self.last)))]

    def step_rows(self, step: int) -> list[Row | Pack]:
        """Rows of optimizer step `step`, the longest first: micro-batches pad little, the step's sum is the same."""
        return sorted((self.rows[index] for index in self.indices(step)), key=lambda row: -len(row.ids))

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, f"order/{epoch}"))
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
            ranked += sorted(order[start:min(start + stretch, end)], key=lambda index: -len(self.rows[index].ids))
        drawn = torch.randperm(steps, generator=generator).tolist()
        middle = chain.from_iterable(ranked[step * size:(step + 1) * size] for step in drawn)
        return [*order[:begin], *middle, *order[end:]]

    def order_hash(self, steps: int = 100) -> str:
        """Sixteen hexadecimal digits over the rows of the first steps: equal where two runs see the same data."""
        digest = hashlib.sha256()
        for step in range(steps):
            for row in self.step_rows(step):
                digest.update(row.ids.tobytes())
        return digest.hexdigest()[:16]


def deal(batches: Sequence[Sequence[Row | Pack]], rank: int, ranks: int) -> list[Sequence[Row | Pack]]:
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
