"""Packing: several examples side by side in one row, none of which sees another."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

from tuneoff.data.dataset import Row


class PackedRow(NamedTuple):
    """Several examples as one row of a batch, with the fields of a `Row`.

    A token attends to its own example alone.
    """

    ids: array
    # [start, end) of the labels. No example's first token is one, so that none is predicted from
    # the example before.
    spans: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]  # where each example begins

    @property
    def labels(self) -> int:
        """Number of label tokens."""
        return sum(end - start for start, end in self.spans)


def example_starts(row: Row | PackedRow) -> tuple[int, ...]:
    """Return where the examples of a row begin."""
    if isinstance(row, PackedRow):
        return row.starts
    return (0,)


def join_rows(rows: Sequence[Row]) -> PackedRow:
    """Return one row that holds several examples, one after another."""
    ids = array("i")
    spans = []
    starts = []
    for row in rows:
        begin = len(ids)
        starts.append(begin)
        for start, end in row.spans:
            spans.append((begin + start, begin + end))
        ids.extend(row.ids)
    return PackedRow(ids, tuple(spans), tuple(starts))


def pack_rows(rows: list[Row], length: int) -> list[PackedRow]:
    """Fill sequences of at most `length` tokens with whole examples, each of `rows` once.

    Best-fit decreasing over all rows at once, as in TRL (`packing_strategy="bfd"`) and in the
    knapsack of LLaMA-Factory. Which examples share a sequence is the same in every epoch; that
    changes nothing, since none sees another.
    """
    packs: list[list[Row]] = []
    # (tokens that still fit, index of the pack), in ascending order.
    free_space: list[tuple[int, int]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        size = len(row.ids)
        smallest_fit = bisect_left(free_space, (size, 0))
        if smallest_fit < len(free_space):
            free, pack = free_space.pop(smallest_fit)
        else:
            free = length
            pack = len(packs)
            packs.append([])
        packs[pack].append(row)
        insort(free_space, (free - size, pack))
    return [join_rows(members) for members in packs]
