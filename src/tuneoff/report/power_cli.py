"""The command `power`: how many seeds would tell a difference apart, by a sweep's own paired spread."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuneoff.report.cells import show_digits
from tuneoff.report.compare import Comparison, make_comparisons
from tuneoff.report.power import MOST_SEEDS, RowPower, count_comparisons, measure_power
from tuneoff.report.qualities import Quality
from tuneoff.report.reading import read_records
from tuneoff.report.records import ReportError
from tuneoff.report.text import show_line, show_path

HEADINGS = (
    "row",
    "pairs",
    "spread",
    "seeds for 80 %",
    "for 90 %",
    "80 %, cautious",
    "could have told",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `power`."""
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a sweep's records")
    parser.add_argument(
        "--difference",
        type=float,
        required=True,
        help="the difference to the baseline that shall be told apart, in the measure's own units",
    )
    parser.add_argument("--baseline", metavar="METHOD", help="as of `report`")
    parser.add_argument(
        "--metric",
        metavar="KEY",
        help="which measure, by its name in table.csv (default: the loss)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table for each comparison; returns the exit code."""
    try:
        for line in write_power(options):
            print(line)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_power(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines to print.

    Raises:
        ReportError: nothing can be said of these records, or not as asked.
    """
    difference = options.difference
    if not 0 < abs(difference) < float("inf"):
        raise ReportError(f"--difference {difference:g}: must be a number other than 0")
    runs, skipped = read_records(options.folders)
    for line in skipped:
        print(line, file=sys.stderr)
    if not runs:
        listing = ", ".join(map(show_path, options.folders))
        raise ReportError(f"{listing}: no records here")
    judged = 0
    comparisons = make_comparisons(runs, options.baseline, strict=False)
    _check_metric(comparisons, options.metric)
    for comparison in comparisons:
        quality = _choose_quality(comparison, options.metric)
        if quality is None and comparison.qualities:
            metric = show_line(options.metric)
            print(f"comparison {comparison.name}: left out, it has no {metric}", file=sys.stderr)
        if quality is None or comparison.baseline is None:
            continue
        powers = list(measure_power(comparison, quality, difference))
        if powers:
            judged += 1
            yield from _describe(comparison, quality, powers, difference)
    if not judged:
        raise ReportError(
            "no two rows have three seeds in common, whose differences are not all the same; so nothing says how far "
            "they spread"
        )


def _check_metric(comparisons: Sequence[Comparison], wanted: str | None) -> None:
    """Raise ReportError where no comparison has a measure of that name, though some have others."""
    qualities = [quality for comparison in comparisons for quality in comparison.qualities]
    found = any(_choose_quality(comparison, wanted) for comparison in comparisons)
    if qualities and not found:
        names = ", ".join(dict.fromkeys(quality.key for quality in qualities))
        raise ReportError(f"--metric {show_line(str(wanted))}: must be one of {names}")


def _choose_quality(comparison: Comparison, wanted: str | None) -> Quality | None:
    """The measure as asked, or the first; None where there is none of that name, or nothing has finished."""
    for quality in comparison.qualities:
        if wanted in (None, quality.key, quality.metric):
            return quality
    return None


def _describe(
    comparison: Comparison, quality: Quality, powers: Sequence[RowPower], difference: float
) -> Iterator[str]:
    assert comparison.baseline is not None
    tests = count_comparisons(comparison)
    yield (
        f"To tell a difference of {abs(difference):g} in {quality.title.lower()} to {comparison.baseline.name}, by "
        f"paired t tests, Holm over {tests} comparisons:"
    )
    yield ""
    yield from _align([HEADINGS, *map(_list_cells, powers)])
    yield ""
    yield (
        "Spread: the standard deviation of the paired differences. Each number is for the first of Holm's tests, the "
        "strictest. Cautious: with the spread at its one-sided 80 % limit, since few seeds know it badly. Could have "
        "told: the difference that the present pairs show with 80 % power."
    )


def _list_cells(power: RowPower) -> tuple[str, ...]:
    counts = (power.seeds, power.seeds_high, power.seeds_cautious)
    return (
        power.row.name,
        str(power.pairs),
        show_digits(power.spread),
        *(_show_count(count) for count in counts),
        show_digits(power.smallest),
    )


def _show_count(count: int | None) -> str:
    return f"> {MOST_SEEDS:,}" if count is None else str(count)


def _align(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Lines of a table, the first column to the left and the others to the right."""
    columns = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        first, *others = row
        cells = [first.ljust(widths[0])]
        for text, width in zip(others, widths[1:], strict=True):
            cells.append(text.rjust(width))
        yield "  ".join(cells)
