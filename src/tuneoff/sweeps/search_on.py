"""Searching on: values beyond the edge of a grid, where the best one lies on it."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from tuneoff.config import format_value, schemas
from tuneoff.sweeps.trials import LARGEST, is_number


def find_extension(
    space: dict[str, list],
    best: dict[str, Any],
) -> dict[str, list[float]]:
    """For each key whose best value lies on the edge of its grid, up to two values that go on beyond it.

    A key has none where all that lies beyond is outside its range.
    """
    extension = {}
    for key, value in best.items():
        values = [other for other in space[key] if is_number(other) and other > 1 / LARGEST]
        if len(values) < 2 or value not in (values[0], values[-1]):
            continue
        neighbour = values[1] if value == values[0] else values[-2]
        beyond = [each for each in go_on(value, neighbour) if lies_in_range(key, each)]
        if beyond:
            extension[key] = beyond
    return extension


def go_on(edge: float, neighbour: float) -> list[float]:
    """Two values by the factor from a neighbour to the edge; of whole numbers those that are whole, none twice."""
    factor = edge / neighbour
    values: list[float] = [float(f"{edge * factor**step:.3g}") for step in (1, 2)]
    if not isinstance(edge, int):
        return values
    whole = dict.fromkeys(round(value) for value in values)
    return [value for value in whole if value not in (0, edge)]


def lies_in_range(key: str, value: float) -> bool:
    """Whether no method's option of this name is declared with a range that leaves the value out."""
    for schema in schemas().values():
        for item in fields(schema):
            accepts = item.metadata.get("accepts") if item.name == key else None
            if accepts is not None and not accepts(value):
                return False
    return True


def write_search(
    command: Sequence[str],
    method: str,
    extension: dict[str, list[float]],
) -> list[str]:
    """The words of a tuning's command that searches beyond the edges, for one method."""
    replaced = ("method", *extension)
    words = [word for word in command if word.partition("=")[0] not in replaced]
    words.append(f"method={method}")
    for key, values in extension.items():
        written = ",".join(map(write_number, values))
        words.append(f"{key}={written}")
    return words


def write_number(value: float) -> str:
    """A number as it is written in a command: `1e-05`, `0.1`, `1` for 1.0, and a whole one with all its digits."""
    return format_value(value) if isinstance(value, int) else f"{value:g}"
