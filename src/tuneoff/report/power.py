"""Power: how many seeds a comparison needs, and what difference the seeds that it has could have shown."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, nctdtr, nctdtrinc, stdtrit

from tuneoff.report.compare import Comparison
from tuneoff.report.qualities import Quality
from tuneoff.report.rows import Row
from tuneoff.report.stats import ALPHA, LEAST_SEEDS

POWER = 0.8
HIGH_POWER = 0.9
MOST_SEEDS = 10_000  # beyond, a number says no more than that it cannot be done
# Of the spread that few seeds estimate: R. H. Browne (1995), On the use of a pilot sample for sample size
# determination, advises its one-sided 80 % limit, since half of all estimates are too low.
SPREAD_CONFIDENCE = 0.8


@dataclass(frozen=True)
class RowPower:
    """What one row's paired differences to the baseline say: seeds needed, and what could have been seen."""

    row: Row
    pairs: int  # seeds that both have finished
    spread: float  # standard deviation of the paired differences
    seeds: int | None  # for 80 % power; None: more than MOST_SEEDS
    seeds_high: int | None  # for 90 % power
    seeds_cautious: int | None  # for 80 % power where the spread is at its limit
    smallest: float  # difference that the present pairs could have shown, with 80 % power


def find_power(difference: float, spread: float, pairs: int, alpha: float) -> float:
    """Return the power of a two-sided paired t test for a true mean difference.

    Args:
        difference: the true mean of the paired differences.
        spread: their standard deviation.
        pairs: how many there are.
        alpha: the level of this one test.
    """
    degrees = pairs - 1
    critical = stdtrit(degrees, 1 - alpha / 2)
    shift = abs(difference) / spread * np.sqrt(pairs)
    # SciPy's series gives NaN far out in a tail: below it is then nothing, above it a test is sure.
    below_upper = np.nan_to_num(nctdtr(degrees, shift, critical))
    below_lower = np.nan_to_num(nctdtr(degrees, shift, -critical))
    return float(1 - below_upper + below_lower)


def count_seeds(difference: float, spread: float, alpha: float, power: float) -> int | None:
    """Return the fewest seeds whose test has the power; None where even `MOST_SEEDS` are too few."""
    if spread == 0:
        return LEAST_SEEDS
    low = LEAST_SEEDS
    high = LEAST_SEEDS
    while find_power(difference, spread, high, alpha) < power:
        if high >= MOST_SEEDS:
            return None
        low = high
        high = min(2 * high, MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        if find_power(difference, spread, middle, alpha) < power:
            low = middle + 1
        else:
            high = middle
    return high


def find_smallest_difference(spread: float, pairs: int, alpha: float, power: float) -> float:
    """Return the difference that so many pairs show with the power."""
    degrees = pairs - 1
    critical = stdtrit(degrees, 1 - alpha / 2)
    shift = nctdtrinc(degrees, 1 - power, critical)  # the other tail adds nothing at such powers
    return float(spread * shift / np.sqrt(pairs))


def limit_spread(spread: float, pairs: int) -> float:
    """Return the one-sided 80 % upper limit of a standard deviation that so many pairs estimate."""
    degrees = pairs - 1
    return float(spread * np.sqrt(degrees / chdtri(degrees, SPREAD_CONFIDENCE)))


def count_comparisons(comparison: Comparison) -> int:
    """Return how many tests against the baseline Holm's adjustment of a table counts, over all its columns."""
    p_values = [verdict.p for verdict in comparison.verdicts]
    return int(np.sum(~np.isnan(p_values)))


def measure_power(
    comparison: Comparison, quality: Quality, difference: float | None = None
) -> Iterator[RowPower]:
    """Yield what each row's own paired spread says, at the level that Holm asks of the first of a table's tests.

    Rows of which no test was made, for want of three pairs or of any spread, say nothing.

    Args:
        comparison: the table.
        quality: which of its measures.
        difference: what shall be told apart; None asks only for what could have been.
    """
    tests = count_comparisons(comparison)
    baseline = comparison.baseline
    if not tests or baseline is None:
        return
    alpha = ALPHA / tests
    verdict = comparison.verdicts[comparison.qualities.index(quality)]
    for row, p in zip(comparison.rows, verdict.p, strict=True):
        if np.isnan(p):
            continue
        differences = row.differences_to(baseline, quality.path)
        pairs = len(differences)
        with np.errstate(over="ignore"):  # of losses that a rate far too high has left
            spread = float(np.std(differences, ddof=1))
        if not np.isfinite(spread):
            continue
        smallest = find_smallest_difference(spread, pairs, alpha, POWER)
        seeds = None
        seeds_high = None
        seeds_cautious = None
        if difference is not None:
            cautious = limit_spread(spread, pairs)
            seeds = count_seeds(difference, spread, alpha, POWER)
            seeds_high = count_seeds(difference, spread, alpha, HIGH_POWER)
            seeds_cautious = count_seeds(difference, cautious, alpha, POWER)
        yield RowPower(row, pairs, spread, seeds, seeds_high, seeds_cautious, smallest)
