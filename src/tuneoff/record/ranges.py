"""Ranges: the two ends of a forecast in words. Standard library only."""

from collections.abc import Sequence

UNKNOWN_HOURS = (
    "hours unknown: epochs of data that are not at hand (max_steps or max_tokens says it)"
)


def format_range(ends: Sequence[float]) -> str:
    """`0.12 to 0.34`; one figure where both ends round to the same."""
    words = [f"{end:,.3g}" if end < 1000 else f"{end:,.0f}" for end in ends]
    return " to ".join(dict.fromkeys(words))


def format_hours(time: dict) -> str:
    """`0.1 to 0.3 h`, or why the hours of a forecast are not known."""
    return UNKNOWN_HOURS if time["hours"] is None else f"{format_range(time['hours'])} h"
