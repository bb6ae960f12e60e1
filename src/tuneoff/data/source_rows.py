"""Rows as they stand in a source, each with its place, before any format is read into them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple


class SourceRow(NamedTuple):
    """A row as it stands in the data."""

    values: dict  # by column
    location: str  # for messages: `FILE: line 3`


class Source(NamedTuple):
    """A set that can be read."""

    # Returns its rows, by its own split names.
    read: Callable[[], dict[str, Iterable[SourceRow]]]
    # A text that changes with the rows; empty for a set that ships with the package.
    key: str
    # What the locations of its rows begin with; the rest of one stays where the set is moved.
    name: str
