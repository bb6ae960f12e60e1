"""Values of a YAML of LLaMA-Factory as words of ours, where one key alone decides it."""

from collections.abc import Callable
from typing import Any

from tuneoff.cli.llamafactory.kinds import format_plain, read_number, read_switch, read_whole

# Of a value: the words that say it here; a ValueError says what it must be.
Take = Callable[[Any], list[str]]
# transformers' ways to draw rows.
SAMPLING = {
    "random": [],
    "sequential": ["shuffle=false"],
    "group_by_length": ["group_by_length=true"],
}


def rename(ours: str) -> Take:
    """The same value under another name; null is left out."""
    return lambda value: [] if value in (None, "") else [f"{ours}={format_plain(value)}"]


def rename_switch(ours: str, inverted: bool = False) -> Take:
    """A switch under another name, or turned over; null is left out."""

    def take(value: Any) -> list[str]:
        if value is None:
            return []
        is_on = read_switch(value) != inverted
        return [f"{ours}={format_plain(is_on)}"]

    return take


def rename_whole(ours: str, lowest: int) -> Take:
    """A whole number under another name; null is left out."""
    return lambda value: [] if value is None else [f"{ours}={read_whole(value, lowest)}"]


def rename_number(ours: str, read: Callable[[Any], float] = read_number) -> Take:
    """A number under another name, as it is written; null is left out."""

    def take(value: Any) -> list[str]:
        if value is None:
            return []
        read(value)
        return [f"{ours}={format_plain(value)}"]

    return take


def take_clip(value: Any) -> list[str]:
    """Of the clip of gradients, which null or 0 switches off."""
    if value is None or read_number(value) <= 0:
        return ["max_grad_norm=null"]
    return [f"max_grad_norm={value}"]


def take_sampling(value: Any) -> list[str]:
    """Of how rows are drawn.

    Raises:
        ValueError: a way that is not here.
    """
    if value is not None and value not in list(SAMPLING):
        raise ValueError(f"there are {', '.join(SAMPLING)}")
    return SAMPLING.get(value, [])
