"""Judgement: from which share or number on a figure is told with a warning, and which seeds compare. Stdlib only."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

LEAST_MEASURED_STEPS = 10  # fewer say little of a rate
LARGE_SHARE = 0.1  # of a split's examples that were cut or dropped


class RowLosses(NamedTuple):
    """What became of a split's examples: how many there were, were cut to max_length, and were dropped."""

    split: str
    examples: int
    cut: int
    dropped: int

    @property
    def cut_share(self) -> float:
        """The share of examples that lost their end, the dropped ones among them."""
        return self.cut / self.examples

    @property
    def dropped_share(self) -> float:
        """The share of examples of which nothing is left."""
        return self.dropped / self.examples

    def describe(self) -> str:
        """`45 % cut to max_length, 3.1 % dropped`; empty where no example lost anything."""
        parts = []
        if self.cut:
            parts.append(f"{_format_percent(self.cut_share)} cut to max_length")
        if self.dropped:
            parts.append(f"{_format_percent(self.dropped_share)} dropped")
        return ", ".join(parts)


def _format_percent(share: float) -> str:
    """`45 %`, `3.1 %`."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def list_row_losses(data: dict[str, Any]) -> Iterator[RowLosses]:
    """Yield what became of each split that has examples, from what a record says of its data."""
    rows = data.get("rows")
    if not isinstance(rows, dict):
        return
    for split, count in rows.items():
        cut = _count(data.get("cut"), split)
        dropped = _count(data.get("dropped"), split)
        if isinstance(count, int) and count + dropped > 0:
            yield RowLosses(split, count + dropped, cut, dropped)


def _count(counts: Any, split: str) -> int:
    """A split's number, 0 where a record of another kind has none."""
    value = counts.get(split) if isinstance(counts, dict) else 0
    return value if isinstance(value, int) else 0


def warn_of_losses(data: dict[str, Any], max_length: int) -> list[str]:
    """Return a warning for each split of which a large share is cut or dropped."""
    warnings = []
    for losses in list_row_losses(data):
        if max(losses.cut_share, losses.dropped_share) >= LARGE_SHARE:
            warnings.append(
                f"max_length={max_length}: of {losses.examples:,} {losses.split} examples "
                f"{losses.describe()}; what lies behind it is neither trained nor judged"
            )
    return warnings


def find_common_seeds(seeds_of_all: Iterable[Iterable[int]]) -> set[int]:
    """The seeds that all have, or where there are none, those that the most have."""
    counts: Counter[int] = Counter()
    for seeds in seeds_of_all:
        counts.update(set(seeds))  # once each, of a mapping its keys
    most = max(counts.values(), default=0)
    return {seed for seed, count in counts.items() if count == most}
