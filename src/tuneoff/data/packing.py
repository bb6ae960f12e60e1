"""Packing: several examples side by side in one row, none of which sees another."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from tuneoff.data.dataset import Row


class PackedRow(NamedTuple):
    """Several examples as one row of a batch; a token sees its own example alone. Has what a `Row` has."""

    ids: array
    spans: tuple[
        tuple[int, int], ...
    ]  # no example's first token is a label, so none is predicted from another example
    starts: tuple[int, ...]  # where each example begins

    @property
    def labels(self) -> int:
        """Number of label tokens."""
        return sum(end - start for start, end in self.spans)


def example_starts(row: Row | PackedRow) -> tuple[int, ...]:
    """Where the examples of a row begin."""
    return row.starts if isinstance(row, PackedRow) else (0,)


def join_rows(rows: Sequence[Row]) -> PackedRow:
    """One row of several examples."""
    begins = tuple(accumulate((len(row.ids) for row in rows[:-1]), initial=0))
    spans = (
        (begin + start, begin + end)
        for begin, row in zip(begins, rows, strict=True)
        for start, end in row.spans
    )
    return PackedRow(array("i", chain.from_iterable(row.ids for row in rows)), tuple(spans), begins)


def pack_rows(rows: list[Row], length: int) -> list[PackedRow]:
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
    return [join_rows(members) for members in packs]
