"""The statistics of the report: what may be said from a few seeds, and what may not. Lower is better throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import (
    special,
)  # what scipy.stats' t calls; importing scipy.stats costs as much as drawing the charts

ALPHA = 0.05
RESAMPLES = 10_000
LEAST_SEEDS = 3  # two seeds give an interval with one degree of freedom: it says nothing


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and half the width of its 95 % interval (None with fewer than three)."""

    mean: float
    half: float | None
    n: int


@cache
def quantile(freedom: int) -> float:
    """How many standard errors a 95 % Student-t interval reaches to each side."""
    return float(special.stdtrit(freedom, 1 - ALPHA / 2))


def estimate(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """Mean and Student-t interval of `values`; None for no values."""
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    n = len(sample)
    if n == 0:
        return None
    half = float(quantile(n - 1) * sample.std(ddof=1) / np.sqrt(n)) if n >= LEAST_SEEDS else None
    return Estimate(float(sample.mean()), half, n)


def over_examples(scores: np.ndarray) -> tuple[float, float] | None:
    """The ends of a 95 % percentile bootstrap interval of the mean score, over examples drawn anew.

    Source: B. Efron (1979), Bootstrap methods. Only how often each score occurs matters to a resampled mean, so the
    counts are drawn rather than the examples. None where all scores are equal: drawing them anew says nothing.

    Args:
        scores: one for each example, such as the share of seeds that answered it rightly.
    """
    values, counts = np.unique(scores, return_counts=True)
    if len(values) < 2:
        return None
    drawn = (
        np.random.default_rng(0).multinomial(len(scores), counts / len(scores), RESAMPLES)
        @ values
        / len(scores)
    )
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def paired_p(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of a paired t test, for each row of (rows, seeds) differences; NaN marks a seed without a pair.

    NaN where there are fewer than three pairs, or no spread: a seed that changes nothing is no sample.
    """
    paired = ~np.isnan(differences)
    n = paired.sum(axis=1)
    safe = np.maximum(n, 2)
    mean = np.where(paired, differences, 0).sum(axis=1) / safe
    squares = np.where(paired, differences - mean[:, None], 0) ** 2
    spread = np.sqrt(squares.sum(axis=1) / (safe - 1))
    usable = (n >= LEAST_SEEDS) & (spread > 1e-12 * np.abs(mean))
    t = mean / np.where(usable, spread / np.sqrt(safe), 1)
    return np.where(usable, 2 * special.stdtr(safe - 1, -np.abs(t)), np.nan)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p values; NaN (no test was made) stays NaN and does not count.

    Source: S. Holm (1979), A simple sequentially rejective multiple test procedure. SciPy has none.
    """
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """For one column of a table: each row's adjusted p against the baseline (NaN: no test), and whether it is bold."""

    p: np.ndarray
    bold: np.ndarray


def judge(columns: Sequence[np.ndarray], baseline: int | None) -> list[Verdict]:
    """What differs from the baseline and what is best, each at a familywise 5 % over all columns of the table.

    Bold is the best mean and every row that cannot be told from it. Which row is best is itself read from the data,
    so the tests behind it are all pairs of rows. They are made only where the table shows a difference from the
    baseline at all; so a table of equal methods shows any difference in at most 5 % of reports, not twice that.

    Args:
        columns: (rows, seeds) each, the same rows; lower is better; NaN where no run finished.
        baseline: its row, or None for a table without one.
    """
    rows = len(columns[0]) if columns else 0
    against = [
        np.full(rows, np.nan) if baseline is None else paired_p(values - values[baseline])
        for values in columns
    ]
    if against:
        against = np.split(holm(np.concatenate(against)), len(columns))
    shown = baseline is None or any((p < ALPHA).any() for p in against)
    bolds = (
        _best(columns, against, baseline)
        if shown
        else [np.zeros(rows, dtype=bool) for _ in columns]
    )
    return [Verdict(p, bold) for p, bold in zip(against, bolds, strict=True)]


def _best(
    columns: Sequence[np.ndarray], against: Sequence[np.ndarray], baseline: int | None
) -> list[np.ndarray]:
    """For each column the rows that share the first place; none where nothing can be told from the best."""
    if not columns:
        return []
    first, second = np.triu_indices(len(columns[0]), 1)
    pairs = [
        np.concatenate([paired_p(values[i + 1 :] - values[i]) for i in range(len(values))])
        for values in columns
    ]
    bolds = []
    adjusted = np.split(holm(np.concatenate(pairs)), len(columns))
    for values, p, to_baseline in zip(columns, adjusted, against, strict=True):
        bold = np.zeros(len(values), dtype=bool)
        enough = (~np.isnan(values)).sum(axis=1) >= LEAST_SEEDS
        if enough.any():
            best = int(np.argmin(np.where(enough, _means(values), np.inf)))
            to_best = np.full(len(values), np.nan)
            to_best[second[first == best]], to_best[first[second == best]] = (
                p[first == best],
                p[second == best],
            )
            # What already differs from the baseline by the smaller family must not be bold beside it.
            if best == baseline:
                to_best = np.fmin(to_best, to_baseline)
            elif baseline is not None:
                to_best[baseline] = np.fmin(to_best[baseline], to_baseline[best])
            if (to_best < ALPHA).any():
                bold = to_best >= ALPHA
                bold[best] = True
        bolds.append(bold)
    return bolds


def _means(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)
    return np.where(present, values, 0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that none other beats in both coordinates (lower is better), by the first coordinate."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        if not kept or points[index][1] < points[kept[-1]][1]:
            kept.append(index)
    return kept
