"""Values of a YAML of LLaMA-Factory by what they must be: numbers, steps, shares and switches."""

import math
from typing import Any

ON_WORDS = ("true", "1", "yes", "on")
OFF_WORDS = ("false", "0", "no", "off")


def read_number(value: Any, above: float = -math.inf) -> float:
    """Return a value as a number; one that is a text is read.

    Raises:
        ValueError: it is none, is not finite, or is not above what it must be; a boolean is none.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number")
    if number <= above:
        raise ValueError(f"must be above {above:g}")
    return number


def read_whole(value: Any, lowest: float = -math.inf) -> int:
    """Return a value as a whole number.

    Raises:
        ValueError: it is none, or is below the lowest.
    """
    number = read_number(value)
    if not number.is_integer():
        raise ValueError("must be a whole number")
    if number < lowest:
        raise ValueError(f"must be at least {lowest}")
    return int(number)


def read_share(value: Any) -> float:
    """Return a value as a share.

    Raises:
        ValueError: it is no number in [0, 1).
    """
    number = read_number(value)
    if not 0 <= number < 1:
        raise ValueError("must be in [0, 1)")
    return number


def read_switch(value: Any) -> bool:
    """Return whether a switch is on.

    Raises:
        ValueError: it is neither on nor off.
    """
    word = str(value).lower()
    if word not in (*ON_WORDS, *OFF_WORDS):
        raise ValueError("must be true or false")
    return word in ON_WORDS


def format_plain(value: Any) -> str:
    """A value as a command line has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(format_plain, value))}]"
    return str(value)


def write_number(value: float) -> str:
    """A number with all its digits, without those behind the point of a whole one."""
    return str(value).removesuffix(".0")
