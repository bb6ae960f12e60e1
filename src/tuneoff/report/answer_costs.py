"""The answer on costs and failures: what rows took, which is measured and not tested, and which runs did not finish."""

from collections.abc import Iterator, Sequence

from tuneoff.record.judgement import LEAST_MEASURED_STEPS
from tuneoff.report.cells import estimate_cell, format_figure
from tuneoff.report.compare import Comparison
from tuneoff.report.rows import Row
from tuneoff.report.text import shorten_list

Mean = tuple[float, Row]  # over seeds, before its row
ALIKE = 1.02  # times the lowest peak: no more is said of smaller differences


def order_by_mean(rows: Sequence[Row], path: str) -> list[Mean]:
    """Return the rows that have a figure, each after its mean over seeds, the lowest first."""
    means = []
    for row in rows:
        estimate = row.estimate(path)
        if estimate:
            means.append((estimate.mean, row))
    means.sort(key=lambda pair: pair[0])
    return means


def describe_memory(comparison: Comparison, finished: Sequence[Row]) -> Iterator[str]:
    """Yield the lowest and the highest peak, as shares of the baseline's where there is one."""
    peaks = [(row.train_peak, row) for row in finished if row.train_peak]
    if len(peaks) < 2:
        return
    peaks.sort(key=lambda pair: pair[0])
    least, low = peaks[0]
    most, high = peaks[-1]
    if most < ALIKE * least:
        yield f"The peak of memory while training is alike in all: {_show_gib(least)} to {_show_gib(most)}."
        return
    yield (
        f"The peak of memory while training was lowest with {low.name}, {_show_gib(least)}"
        f"{_share_of_baseline(least, low, comparison)}, and highest with {high.name}, "
        f"{_show_gib(most)}{_share_of_baseline(most, high, comparison)}."
    )


def _share_of_baseline(gib: float, row: Row, comparison: Comparison) -> str:
    baseline = comparison.baseline
    if baseline is None or baseline is row or not baseline.train_peak:
        return ""
    return f" ({100 * gib / baseline.train_peak:.0f} % of {baseline.name}'s)"


def _show_gib(gib: float) -> str:
    return f"{format_figure(gib, '.2f')} GiB"


def describe_speed(comparison: Comparison, finished: Sequence[Row]) -> Iterator[str]:
    """Yield the range of throughput; it is not tested, so nothing is called fastest."""
    path = "throughput.tokens_per_second"
    speeds = order_by_mean(finished, path)
    if len(speeds) < 2:
        return
    _, slow = speeds[0]
    _, fast = speeds[-1]
    steps = [row.measured_steps for row in finished if row.measured_steps is not None]
    few = ""
    if steps and min(steps) < LEAST_MEASURED_STEPS:
        few = f", over as few as {min(steps)} steps, too few for a rate"
    slow_text = estimate_cell(slow.estimate(path)).text
    fast_text = estimate_cell(fast.estimate(path)).text
    yield (
        f"Training ran at {slow_text} tokens/s ({slow.name}) to {fast_text} ({fast.name}){few}; "
        "speeds are measured and not tested."
    )


def describe_failures(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence on the rows of which not every run finished, and one on those that were paused on purpose."""
    failed = []
    paused = []
    for row in comparison.rows:
        words = f"{row.name} ({row.outcome})"
        if row.only_paused:
            paused.append(words)
        elif row.runs and not row.all_finished:
            failed.append(words)
    if failed:
        yield f"Not every run finished: {shorten_list(failed)}."
    if paused:
        yield (
            "Paused on purpose, as a tuning by halving does with all but the better candidates: "
            f"{shorten_list(paused)}."
        )
