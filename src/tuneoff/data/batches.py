"""Batches: rows become tensors, and each of several ranks gets its share."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from tuneoff.data.dataset import Row
from tuneoff.data.packing import PackedRow, example_starts


class Batch(NamedTuple):
    """A micro-batch, padded on the right: what comes later is never attended to, so that no mask is needed."""

    input_ids: torch.Tensor  # (rows, length)
    position_ids: (
        torch.Tensor | None
    )  # (rows, length), from 0 in each example; None where each row is one example
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
        moved: dict = {
            name: item.to(device)
            for name, item in self._asdict().items()
            if isinstance(item, torch.Tensor)
        }
        return self._replace(**moved)


def collate(rows: Sequence[Row | PackedRow], pad: int) -> Batch:
    """Pad `rows` to the longest; where labels are is an index made here, so that a step reads nothing back."""
    length = max(len(row.ids) for row in rows)
    packed = any(isinstance(row, PackedRow) for row in rows)
    input_ids = torch.full((len(rows), length), pad)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    places: list[int] = []  # of labels
    for index, row in enumerate(rows):
        input_ids[index, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
        for start, end in row.spans:
            places += range(index * length + start, index * length + end)
        # What is padded is an example of its own, which nothing is asked of.
        bounds = sorted({*example_starts(row), len(row.ids), length})
        for start, end in itertools.pairwise(bounds):
            positions[index, start:end] = torch.arange(end - start)
    labelled = torch.tensor(places, dtype=torch.long)
    # The prediction of the token at position p is made at p - 1.
    return Batch(
        input_ids,
        positions if packed else None,
        labelled - 1,
        input_ids.flatten()[labelled],
        sum(len(row.ids) for row in rows),
        sum(len(example_starts(row)) for row in rows),
    )


def split_between_ranks(
    batches: Sequence[Sequence[Row | PackedRow]], rank: int, ranks: int
) -> list[Sequence[Row | PackedRow]]:
    """This rank's micro-batches of a step or an evaluation: every `ranks`-th, so that neighbours run side by side.

    All ranks get equally many, since they wait for each other in each: a row without a label stands in for one.
    """
    blank = [Row(batches[0][0].ids[:1], ())]
    whole = [*batches, *[blank] * (-len(batches) % ranks)]
    return whole[rank::ranks]


def evaluation_batches(
    rows: list[Row], size: int, pad: int, rank: int = 0, ranks: int = 1
) -> Iterator[Batch]:
    """All rows once, longest together, so that little is padded; a token-weighted mean does not depend on the order.

    With several `ranks`, the part of one.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for part in split_between_ranks(
        [ordered[start : start + size] for start in range(0, len(ordered), size)], rank, ranks
    ):
        yield collate(part, pad)
