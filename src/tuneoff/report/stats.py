"""Statistics: what may be said from a few seeds, and what may not. Lower is better throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import (
    stdtr,
    stdtrit,
)  # all of scipy.stats would take a third of a small report's time

ALPHA = 0.05
RESAMPLES = 10_000
LEAST_SEEDS = 3  # two seeds give an interval with one degree of freedom: it says nothing
# Differences whose spread is smaller than this share of their mean differ by rounding alone.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and half the width of its 95 % interval (None with fewer than three seeds)."""

    mean: float
    half: float | None
    n: int


@cache
def t_quantile(degrees_of_freedom: int) -> float:
    """Return how many standard errors a 95 % Student-t interval reaches to each side."""
    return float(stdtrit(degrees_of_freedom, 1 - ALPHA / 2))


def estimate_mean(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """Return the mean and the Student-t interval of `values`, or None for no values. What is not finite is no value."""
    sample = np.asarray(values, dtype=float)
    sample = sample[np.isfinite(sample)]
    n = len(sample)
    if n == 0:
        return None
    sample, exponent = _scale_to_one(sample)
    half = None
    if n >= LEAST_SEEDS:
        deviation = sample.std(ddof=1)
        half = _scale_back(t_quantile(n - 1) * deviation / np.sqrt(n), exponent)
    return Estimate(_scale_back(sample.mean(), exponent), half, n)


def _scale_to_one(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Values of at most 1, whose squares can be summed, and the power of two that they were divided by.

    Exact, so that no digit of a mean or an interval depends on it.
    """
    finite = values[np.isfinite(values)]
    largest = np.max(np.abs(finite), initial=0.0)
    exponent = int(np.frexp(largest)[1])
    return np.ldexp(values, -exponent), exponent


def _scale_back(value: float, exponent: int) -> float:
    """The value times a power of two; infinity where it is beyond all floats."""
    with np.errstate(over="ignore"):
        return float(np.ldexp(value, exponent))


def bootstrap_examples(scores: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of a 95 % percentile bootstrap interval of the mean score, over examples drawn anew.

    Source: B. Efron (1979), Bootstrap methods. Only how often each score occurs matters to a resampled mean, so the
    counts are drawn rather than the examples: of 1,319 examples in a twelfth of the time of `scipy.stats.bootstrap`.
    None where all scores are equal, since drawing them anew says nothing.

    Args:
        scores: (examples,), such as the share of seeds that answered each one rightly.
    """
    values, counts = np.unique(scores, return_counts=True)
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    resampled = rng.multinomial(len(scores), counts / len(scores), RESAMPLES)
    means = resampled @ values / len(scores)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def paired_p_values(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p value of a paired t test for each row of differences.

    NaN where there are fewer than three pairs, or no spread: a seed that changes nothing is no sample.

    Args:
        differences: (rows, seeds); NaN marks a seed without a pair.
    """
    pairs = np.ma.masked_invalid(differences)
    enough = pairs.count(axis=1) >= LEAST_SEEDS
    p_values = np.full(len(differences), np.nan)
    if enough.any():
        pairs = pairs[enough]
        counts = pairs.count(axis=1)
        means = pairs.mean(axis=1).filled(0)
        spread = pairs.std(axis=1, ddof=1).filled(0)
        varied = spread > ROUNDING * np.abs(means)
        standard_errors = np.where(varied, spread, 1.0) / np.sqrt(counts)
        tested = 2 * stdtr(counts - 1, -np.abs(means / standard_errors))
        p_values[enough] = np.where(varied, tested, np.nan)
    return p_values


def adjust_by_holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjusted p values; NaN (no test was made) stays NaN and does not count.

    Source: S. Holm (1979), A simple sequentially rejective multiple test procedure. SciPy has none.
    """
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """For one column of a table: each row's adjusted p against the baseline (NaN: no test), and whether it is bold."""

    p: np.ndarray  # (rows,)
    bold: np.ndarray  # (rows,)


def judge_columns(columns: Sequence[np.ndarray], baseline: int | None) -> list[Verdict]:
    """Say what differs from the baseline and what is best, each at a familywise 5 % over all columns of the table.

    Bold is the best mean and every row that cannot be told from it. Which row is best is itself read from the data,
    so the tests behind it are all pairs of rows. They are made only where the table shows a difference from the
    baseline at all; so a table of equal methods shows any difference in at most 5 % of reports, not twice that.

    Args:
        columns: (rows, seeds) each, the same rows; lower is better; NaN where no run finished.
        baseline: its row, or None for a table without one.
    """
    if not columns:
        return []
    columns = [_scale_to_one(values)[0] for values in columns]
    rows = len(columns[0])
    if baseline is None:
        untested = np.full(rows, np.nan)
        return [Verdict(untested, bold) for bold in _find_best_rows(columns)]
    raw = [paired_p_values(values - values[baseline]) for values in columns]
    against = np.split(adjust_by_holm(np.concatenate(raw)), len(columns))
    if any((p < ALPHA).any() for p in against):
        bolds = _find_best_rows(columns, against, baseline)
    else:
        bolds = [np.zeros(rows, dtype=bool) for _ in columns]
    return [Verdict(p, bold) for p, bold in zip(against, bolds, strict=True)]


def _find_best_rows(
    columns: Sequence[np.ndarray],
    against: Sequence[np.ndarray] | None = None,
    baseline: int | None = None,
) -> list[np.ndarray]:
    """For each column the rows that share the first place; none where nothing can be told from the best."""
    adjusted = adjust_by_holm(np.concatenate([_test_all_pairs(values) for values in columns]))
    bolds = []
    for index, pair_p in enumerate(np.split(adjusted, len(columns))):
        values = columns[index]
        best = _best_row(values)
        if best is None:
            bolds.append(np.zeros(len(values), dtype=bool))
            continue
        to_baseline = None if against is None else against[index]
        bolds.append(find_ties(pair_p, best, len(values), to_baseline, baseline))
    return bolds


def find_ties(
    pair_p: np.ndarray,
    best: int,
    rows: int,
    to_baseline: np.ndarray | None = None,
    baseline: int | None = None,
) -> np.ndarray:
    """Return which rows share the first place, (rows,); none where no row can be told from the best.

    Args:
        pair_p: adjusted p value of each pair, in the order of `np.triu_indices(rows, 1)`.
        best: the row with the best mean.
        rows: their number.
        to_baseline: (rows,) adjusted p values against the baseline.
        baseline: its row.
    """
    to_best = _against_best(pair_p, best, rows)
    if to_baseline is not None and baseline is not None:
        # What already differs from the baseline by the smaller family must not be bold beside it.
        if best == baseline:
            to_best = np.fmin(to_best, to_baseline)
        else:
            to_best[baseline] = np.fmin(to_best[baseline], to_baseline[best])
    return _share_first_place(to_best, best)


def _test_all_pairs(values: np.ndarray) -> np.ndarray:
    """The p value of each pair of rows, in the order of `np.triu_indices(rows, 1)`."""
    p_values = []
    for row in range(len(values)):
        differences = values[row + 1 :] - values[row]
        p_values.append(paired_p_values(differences))
    return np.concatenate(p_values)


def _best_row(values: np.ndarray) -> int | None:
    """The row with the lowest mean among those of enough seeds, or None."""
    present = np.ma.masked_invalid(values)
    enough = present.count(axis=1) >= LEAST_SEEDS
    if not enough.any():
        return None
    means = present.mean(axis=1).filled(np.inf)
    means[~enough] = np.inf
    return int(np.argmin(means))


def _against_best(pair_p: np.ndarray, best: int, rows: int) -> np.ndarray:
    """Each row's p value of its pair with the best row; NaN for the best row itself. Shape (rows,)."""
    first, second = np.triu_indices(rows, 1)
    to_best = np.full(rows, np.nan)
    to_best[second[first == best]] = pair_p[first == best]
    to_best[first[second == best]] = pair_p[second == best]
    return to_best


def _share_first_place(to_best: np.ndarray, best: int) -> np.ndarray:
    """The best row and those that cannot be told from it; none where no row at all can be told from it."""
    if not (to_best < ALPHA).any():
        return np.zeros(len(to_best), dtype=bool)
    bold = to_best >= ALPHA
    bold[best] = True
    return bold


def find_pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that none other beats in both coordinates, ordered by the first coordinate.

    Lower is better in both.
    """
    order = sorted(range(len(points)), key=lambda index: points[index])
    front: list[int] = []
    for index in order:
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front
