"""Cells of a table: figures as text with no digit that means nothing, and the figures behind them for CSV."""

import math
from dataclasses import dataclass, field

import numpy as np

from tuneoff.report.stats import Estimate, bootstrap_examples

MISSING = "–"
MOST_DECIMALS = 6
LARGEST_PLAIN = 1e9  # from here on figures have a power of ten
SMALLEST_PLAIN = 1e-4  # below it, six decimals leave fewer than three digits
ROUNDING = 1e-9  # a smaller share of a figure is rounding
COUNT_UNITS = ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"))
LARGEST_COUNT = 1e15
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
    return Cell(format_figure(gib, ".2f"), gib, figures={"": gib})


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
    text = _format_estimate(estimate, interval, estimate.mean, half, "")
    return Cell(text, estimate.mean, bold, _estimate_figures(estimate, interval))


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
    sign = "+" if baseline else ""
    scale = abs(baseline.mean) if baseline else 0.0
    text = _format_estimate(difference, interval, measure.mean, half, sign, scale)
    return Cell(text, difference.mean, figures=_estimate_figures(difference, interval))


def _missing_estimate() -> Cell:
    return Cell(MISSING, figures={"": None, "interval": None, "n": 0})


def _half_width(estimate: Estimate, interval: tuple[float, float] | None) -> float | None:
    """Half the width of the interval over seeds, or where there is none of that over examples."""
    if estimate.half or interval is None:
        return estimate.half
    low, high = interval
    return (high - low) / 2


def _estimate_figures(
    estimate: Estimate, interval: tuple[float, float] | None
) -> dict[str, Figure]:
    """What CSV has of an estimate."""
    figures: dict[str, Figure] = {
        "": estimate.mean,
        "interval": estimate.half,
        "n": estimate.n,
    }
    if interval is not None:
        low, high = interval
        figures["examples_low"] = low
        figures["examples_high"] = high
    return figures


# ---------------------------------------------------------------- text of figures
def _format_estimate(
    estimate: Estimate,
    interval: tuple[float, float] | None,
    measure: float,
    half: float | None,
    sign: str,
    scale: float = 0.0,
) -> str:
    """`mean ± half [low, high]`; with a power of ten behind it where the figures are large or tiny.

    Args:
        estimate: the mean, and half the width of its interval over seeds.
        interval: the ends of the interval over examples.
        measure: the value that says how many decimals are shown where no interval does.
        half: half the width of the interval that says it.
        sign: `+` for a difference.
        scale: what a difference is taken from: a much smaller difference is rounding, and has no power of ten.
    """
    power = _find_power(estimate, scale)
    if not power:
        decimals = count_decimals(measure, half)
        return _join_estimate(estimate, interval, decimals, sign)
    scaled = _scale_estimate(estimate, power)
    decimals = count_decimals(scaled.mean, scaled.half)
    text = _join_estimate(scaled, None, max(decimals, 1), sign)
    if scaled.half is None:
        return f"{text}e{power}"
    return f"({text})e{power}"


def _join_estimate(
    estimate: Estimate, interval: tuple[float, float] | None, decimals: int, sign: str
) -> str:
    text = f"{estimate.mean:{sign},.{decimals}f}"
    if estimate.half is not None:
        half = f"{estimate.half:,.{decimals}f}" if math.isfinite(estimate.half) else "∞"
        text += f" ± {half}"
    if interval is not None:
        low, high = interval
        text += f" [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"
    return text.replace("-", "−")


def _find_power(estimate: Estimate, scale: float) -> int:
    """The power of ten that a mean and its interval are written with, or 0."""
    size = abs(estimate.mean)
    if estimate.half is not None and math.isfinite(estimate.half):
        size = max(size, estimate.half)
    if size == 0 or size <= ROUNDING * scale or SMALLEST_PLAIN <= size < LARGEST_PLAIN:
        return 0
    return math.floor(math.log10(size))


def _scale_estimate(estimate: Estimate, power: int) -> Estimate:
    """An estimate divided by a power of ten."""
    half = estimate.half
    if half is not None:
        half = _divide_by_power(half, power)
    return Estimate(_divide_by_power(estimate.mean, power), half, estimate.n)


def _divide_by_power(value: float, power: int) -> float:
    """In two steps, because 10 to the power of -320 is no float of full precision."""
    first = power // 2
    return value / 10.0**first / 10.0 ** (power - first)


def format_figure(value: float, plain: str) -> str:
    """Return a figure in the format `plain`, such as `.2f`; with three digits and a power of ten where it is large."""
    if abs(value) < LARGEST_PLAIN:
        return f"{value:{plain}}"
    return format_rate(value)


def count_decimals(mean: float, half: float | None) -> int:
    """Return the decimal places of a mean: as many as leave two digits of its interval.

    Without an interval: three decimals, or three digits of what is large or tiny.
    """
    if half and math.isfinite(half) and half > ROUNDING * abs(mean):  # less: equal values
        decimals = 1 - math.floor(math.log10(half))
    elif not mean:
        return 1
    elif 0.01 <= abs(mean) < 10:
        return 3
    else:
        decimals = 2 - math.floor(math.log10(abs(mean)))
    return min(MOST_DECIMALS, max(0, decimals))


def show_digits(figure: float) -> str:
    """Return a positive figure with two digits, as an interval has: 0.012, 2.6, 31."""
    if figure >= LARGEST_PLAIN or 0 < figure < SMALLEST_PLAIN:
        return format_rate(figure)
    return f"{figure:.{count_decimals(figure, figure)}f}"


def format_count(count: float) -> str:
    """Return a count with three digits: 234 k, 5.80 M, 8.03 B."""
    if abs(count) >= LARGEST_COUNT * 0.9995:
        return format_rate(count)
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
        return format_figure(percent, ".0f") + " %"
    return f"{percent:.2g} %"
