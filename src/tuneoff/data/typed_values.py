"""Typed values: what a set's own types say of a stored number or text, by which a row is given in words.

`datasets` and pyarrow hand out what is stored: the number of a class, and of a float32 the float64 next to it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Converter = Callable[[Any], Any]  # of one stored value
SHORT_FLOATS: dict[str, Any] = {"float16": np.float16, "float32": np.float32}


def find_converters(
    features: Mapping[str, Any] | None, parses_json: bool = False
) -> dict[str, Converter]:
    """Return by column what makes the meant value of a stored one, of columns where the two differ.

    Args:
        features: the columns' types, as `datasets` has them; None where it knows none.
        parses_json: whether the values of its type for JSON are texts yet.
    """
    converters = {}
    for column, feature in (features or {}).items():
        convert = find_converter(feature, parses_json)
        if convert is not None:
            converters[column] = convert
    return converters


def find_converter(feature: Any, parses_json: bool) -> Converter | None:
    """Return what makes the meant value of a stored one; None where the two are the same."""
    if isinstance(feature, Mapping):
        return convert_members(find_converters(feature, parses_json))
    if isinstance(feature, list):
        return convert_items(find_converter(feature[0], parses_json))
    kind = type(feature).__name__
    if kind == "ClassLabel":
        return name_class(feature.names)
    if kind == "Json" and parses_json:
        return feature.decode_example
    if kind in ("List", "LargeList", "Sequence"):
        return convert_items(find_converter(feature.feature, parses_json))
    short_float = SHORT_FLOATS.get(getattr(feature, "dtype", None) or "")
    if kind == "Value" and short_float is not None:
        return shorten(short_float)
    return None


def convert_members(converters: dict[str, Converter]) -> Converter | None:
    """Return a converter of a dictionary's values, by name."""
    if not converters:
        return None

    def convert(members: dict | None) -> dict | None:
        return members and convert_row(members, converters)

    return convert


def convert_items(convert_item: Converter | None) -> Converter | None:
    """Return a converter of a list's items."""
    if convert_item is None:
        return None

    def convert(items: list | None) -> list | None:
        return items and [convert_item(item) for item in items]

    return convert


def convert_row(values: dict, converters: Mapping[str, Converter]) -> dict:
    """Return a row with the meant values in place of the stored ones."""
    converted = dict(values)
    for column in converters.keys() & values.keys():
        converted[column] = converters[column](values[column])
    return converted


def name_class(names: list[str]) -> Converter:
    """Return what gives a class's name for its number; None for a number that has none, as -1 for `unknown`."""

    def convert(number: int | None) -> str | None:
        if number is None or not 0 <= number < len(names):
            return None
        return names[number]

    return convert


def shorten(short_float: Any) -> Converter:
    """Return what gives the number of fewest digits that means the same in a float of fewer bits."""

    def convert(number: float | None) -> float | None:
        return None if number is None else float(str(short_float(number)))

    return convert
