"""Batches of a prediction: the worst that a run may see, and such as it sees in the mean. All tokens are 0."""

from array import array
from typing import NamedTuple

from tuneoff.data import Batch, Row, collate, join_rows


def make_worst_batch(size: int, length: int, packed: bool = False) -> Batch:
    """`size` rows of `length` tokens, all labels. When packed the last holds two examples, so that there is a mask."""
    full = _blank_row(length)
    last = join_rows([_blank_row(length - 1), _blank_row(1)]) if packed else full
    rows = [full] * (size - 1)
    return collate([*rows, last], pad=0)


class TypicalRows(NamedTuple):
    """Rows as a run sees them in the mean, padding included."""

    length: int
    labels: int  # tokens that are trained, at most length - 1
    packed: bool

    def make_batch(self, size: int) -> Batch:
        """`size` of these rows; a packed one holds two examples."""
        if not self.packed:
            return collate([_blank_row(self.length, self.labels)] * size, pad=0)
        half = self.length // 2
        own_labels = self.labels // 2
        halves = [_blank_row(half, own_labels), _blank_row(self.length - half, own_labels)]
        return collate([join_rows(halves)] * size, pad=0)


def _blank_row(tokens: int, labels: int | None = None) -> Row:
    """A row of so many tokens 0, of which the last `labels` are trained; all but the first where that is None."""
    first = 1 if labels is None else max(1, tokens - labels)
    return Row(array("i", [0] * tokens), ((first, tokens),))
