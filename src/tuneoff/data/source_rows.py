"""Rows as they stand in a source, each with its place, before any format is read into them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple


class SourceRow(NamedTuple):
    """A row as it stands in the data, and where: `FILE: line 3`."""

    row: dict
    where: str


class Source(NamedTuple):
    """What gives a set's rows by its own split names, and a text that changes with them (empty: ships with us)."""

    read: Callable[[], dict[str, Iterable[SourceRow]]]
    key: str
