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
ROUNDING = 1e-12  # values that differ by a smaller share of their size differ by rounding alone


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


def paired_p_values(differences: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """Return the two-sided p value of a paired t test for each row of differences.

    NaN where there are fewer than three pairs, or no spread: a seed that changes nothing is no sample.

    Args:
        differences: (rows, seeds); NaN marks a seed without a pair.
        sizes: (rows,) of the values that they are differences of, beside which a spread may be rounding alone; by
            default the mean differences.
    """
    # By rows: beside one absurd difference, the squares of all others would be 0.
    _, exponents = np.frexp(find_largest(differences))
    scaled = np.ldexp(differences, -exponents[:, None])
    pairs = np.ma.masked_invalid(scaled)
    enough = pairs.count(axis=1) >= LEAST_SEEDS
    p_values = np.full(len(differences), np.nan)
    if enough.any():
        pairs = pairs[enough]
        counts = pairs.count(axis=1)
        means = pairs.mean(axis=1).filled(0)
        spread = pairs.std(axis=1, ddof=1).filled(0)
        beside = np.abs(means)
        if sizes is not None:
            beside = _scale_down(sizes, exponents)[enough]
        varied = spread > ROUNDING * beside
        standard_errors = np.where(varied, spread, 1.0) / np.sqrt(counts)
        tested = 2 * stdtr(counts - 1, -np.abs(means / standard_errors))
        p_values[enough] = np.where(varied, tested, np.nan)
    return p_values


def find_largest(values: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each row that is finite, (rows,); 0 where there is none."""
    magnitudes = np.abs(values)
    magnitudes[~np.isfinite(values)] = 0.0
    return magnitudes.max(axis=1, initial=0.0)


def _scale_down(values: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Values divided by powers of two; infinity where they are beyond all floats."""
    with np.errstate(over="ignore"):
        return np.ldexp(values, -exponents)


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
