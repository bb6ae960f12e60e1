"""Cells of a table: figures as text with no digit that means nothing, and the figures behind them for CSV."""

import math
from dataclasses import dataclass, field

import numpy as np

from tuneoff.report.stats import Estimate, bootstrap_examples

MISSING = "–"
MOST_DECIMALS = 6
COUNT_UNITS = ((1e9, " B"), (1e6, " M"), (1e3, " k"))
Figure = float | int | str | None


@dataclass(frozen=True)
class Cell:
    """What a reader sees, what it sorts by, and the figures behind it for CSV (column suffix: value)."""

    text: str
    value: float | str | None = None
    bold: bool = False
    figures: dict[str, Figure] = field(default_factory=dict)


def text_cell(text: str) -> Cell:
    """Make a cell that sorts by its text."""
    return Cell(text or MISSING, text or None, figures={"": text})


def gib_cell(gib: float | None) -> Cell:
    """Make a cell of an amount of memory in GiB, with two decimals."""
    if gib is None:
        return Cell(MISSING, figures={"": None})
    return Cell(f"{gib:.2f}", gib, figures={"": gib})


def estimate_cell(
    estimate: Estimate | None, bold: bool = False, examples: np.ndarray | None = None
) -> Cell:
    """Make a cell `mean ± half [low, high]`, with the digits that the intervals leave standing.

    Args:
        estimate: the mean over seeds.
        bold: whether the cell is shown in bold.
        examples: (examples,) scores of test examples, for the interval over these.
    """
    if estimate is None:
        return _missing_estimate()
    interval = None if examples is None else bootstrap_examples(examples)
    half = _half_width(estimate, interval)
    decimals = count_decimals(estimate.mean, half)
    return _make_estimate_cell(estimate, interval, decimals, "", bold)


def difference_cell(
    difference: Estimate | None, baseline: Estimate | None, examples: np.ndarray | None = None
) -> Cell:
    """Make a cell of a difference, with its sign; without an interval it has the decimals of the baseline's value.

    Args:
        difference: the mean difference over common seeds.
        baseline: the value that the difference is taken from.
        examples: (examples,) differences of the examples' scores.
    """
    if difference is None:
        return _missing_estimate()
    interval = None if examples is None else bootstrap_examples(examples)
    half = _half_width(difference, interval)
    measure = baseline if baseline and not half else difference
    decimals = count_decimals(measure.mean, half)
    sign = "+" if baseline else ""
    return _make_estimate_cell(difference, interval, decimals, sign)


def _missing_estimate() -> Cell:
    return Cell(MISSING, figures={"": None, "interval": None, "n": 0})


def _half_width(estimate: Estimate, interval: tuple[float, float] | None) -> float | None:
    """Half the width of the interval over seeds, or where there is none of that over examples."""
    if estimate.half or interval is None:
        return estimate.half
    low, high = interval
    return (high - low) / 2


def _make_estimate_cell(
    estimate: Estimate,
    interval: tuple[float, float] | None,
    decimals: int,
    sign: str,
    bold: bool = False,
) -> Cell:
    """The text of a mean and its intervals, and the figures behind it."""
    figures: dict[str, Figure] = {
        "": estimate.mean,
        "interval": estimate.half,
        "n": estimate.n,
    }
    text = f"{estimate.mean:{sign},.{decimals}f}"
    if estimate.half is not None:
        text += f" ± {estimate.half:,.{decimals}f}"
    if interval is not None:
        low, high = interval
        text += f" [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"
        figures["examples_low"] = low
        figures["examples_high"] = high
    return Cell(text.replace("-", "−"), estimate.mean, bold, figures)


def count_decimals(mean: float, half: float | None) -> int:
    """Return the decimal places of a mean: as many as leave two digits of its interval.

    Without an interval: three decimals, or three digits of what is large or tiny.
    """
    if half and half > 1e-9 * abs(mean):  # less is rounding: equal values
        decimals = 1 - math.floor(math.log10(half))
    elif not mean:
        return 1
    elif 0.01 <= abs(mean) < 10:
        return 3
    else:
        decimals = 2 - math.floor(math.log10(abs(mean)))
    return min(MOST_DECIMALS, max(0, decimals))


def format_count(count: float) -> str:
    """Return a count with three digits: 234 k, 5.80 M, 8.03 B."""
    for size, unit in COUNT_UNITS:
        if count >= size * 0.9995:
            digits = f"{count / size:#.3g}"
            return digits.rstrip(".") + unit
    return f"{count:.0f}"


def format_rate(rate: float) -> str:
    """Return a rate with three digits at most: 1e-3, 3.16e-4."""
    mantissa, _, power = f"{rate:.2e}".partition("e")
    digits = mantissa.rstrip("0").rstrip(".")
    return f"{digits}e{int(power)}"


def format_percent(percent: float) -> str:
    """Return a percentage with two digits: 3.9 %, 100 %."""
    if percent >= 10:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %"
