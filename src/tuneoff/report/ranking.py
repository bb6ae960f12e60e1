"""Ranking: what differs from the baseline and which rows share the first place, over all columns of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneoff.report.stats import (
    ALPHA,
    LEAST_SEEDS,
    ROUNDING,
    adjust_by_holm,
    find_largest,
    paired_p_values,
)


@dataclass(frozen=True)
class FirstPlace:
    """For one column of a table: the best row, which rows share its place, and which could not be tested for it."""

    best: int | None  # None: no row was tested against any best
    bold: np.ndarray  # (rows,)
    untested: np.ndarray  # (rows,): whether it has values that no test could compare with the best


@dataclass(frozen=True)
class Verdict:
    """For one column of a table: each row's adjusted p against the baseline (NaN: no test), and the first place."""

    p: np.ndarray  # (rows,)
    equal: np.ndarray  # (rows,): whether its values are the baseline's, so that there is no test
    first_place: FirstPlace

    @property
    def best(self) -> int | None:
        """The best row, or None where no row was tested against any best."""
        return self.first_place.best

    @property
    def bold(self) -> np.ndarray:
        """Which rows share the first place, (rows,); none where nothing can be told from the best."""
        return self.first_place.bold

    @property
    def untested(self) -> np.ndarray:
        """Which rows have values that no test could compare with the best, (rows,)."""
        return self.first_place.untested

    def reorder(self, places: Sequence[int]) -> "Verdict":
        """Return the verdict of the rows in another order."""
        chosen = list(places)
        best = None if self.best is None else chosen.index(self.best)
        first_place = FirstPlace(best, self.bold[chosen], self.untested[chosen])
        return Verdict(self.p[chosen], self.equal[chosen], first_place)


def judge_columns(columns: Sequence[np.ndarray], baseline: int | None) -> list[Verdict]:
    """Say what differs from the baseline and what is best, each at a familywise 5 % over all columns of the table.

    Bold is the best row at common seeds and all that cannot be told from it. Which row is best is read from the data,
    so the tests behind it are all pairs of rows. They are made only where the table shows a difference from the
    baseline at all; so a table of equal methods shows any difference in at most 5 % of reports, not twice that.

    Args:
        columns: (rows, seeds) each, the same rows; lower is better; NaN where no run finished.
        baseline: its row, or None for a table without one.
    """
    if not columns:
        return []
    rows = len(columns[0])
    nothing = np.zeros(rows, dtype=bool)
    if baseline is None:
        no_test = np.full(rows, np.nan)
        return [Verdict(no_test, nothing, first) for first in _find_best_rows(columns)]
    raw = [_test_pairs(values, values[baseline]) for values in columns]
    against = np.split(adjust_by_holm(np.concatenate(raw)), len(columns))
    if find_differing(against):
        firsts = _find_best_rows(columns, against, baseline)
    else:
        firsts = [FirstPlace(None, nothing, nothing)] * len(columns)
    verdicts = []
    for values, p, first in zip(columns, against, firsts, strict=True):
        equal = _find_equal_rows(values, values[baseline])
        equal[baseline] = False
        verdicts.append(Verdict(p, equal, first))
    return verdicts


def find_differing(against: Sequence[np.ndarray]) -> bool:
    """Return whether any row differs from the baseline in any column: only then is it tested which row is best.

    Args:
        against: for each column (rows,) adjusted p values against the baseline.
    """
    return any((p < ALPHA).any() for p in against)


def _test_pairs(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The p value of each row's pairs with the same seeds of others, (rows,)."""
    # Halves, exact, since the difference of two values may be beyond all floats.
    differences = values / 2 - others / 2
    return paired_p_values(differences, _measure_pairs(values, others))


def _measure_pairs(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The largest value of each row's pairs, (rows,)."""
    return find_largest(np.maximum(np.abs(values), np.abs(others)))


def _find_equal_rows(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which rows have the same values as others at three common seeds or more, but for rounding. Shape (rows,)."""
    differences = values / 2 - others / 2
    pairs = np.isfinite(differences).sum(axis=1)
    is_equal = find_largest(differences) <= ROUNDING * _measure_pairs(values, others)
    return is_equal & (pairs >= LEAST_SEEDS)


def _find_best_rows(
    columns: Sequence[np.ndarray],
    against: Sequence[np.ndarray] | None = None,
    baseline: int | None = None,
) -> list[FirstPlace]:
    """For each column the rows that share the first place, and those that could not be tested for it.

    None of either where nothing can be told from the best.
    """
    adjusted = adjust_by_holm(np.concatenate([_test_all_pairs(values) for values in columns]))
    firsts = []
    for index, pair_p in enumerate(np.split(adjusted, len(columns))):
        to_baseline = None if against is None else against[index]
        firsts.append(_find_first_place(columns[index], pair_p, to_baseline, baseline))
    return firsts


def _find_first_place(
    values: np.ndarray,
    pair_p: np.ndarray,
    to_baseline: np.ndarray | None,
    baseline: int | None,
) -> FirstPlace:
    """The first place of one column, by the adjusted p value of each pair of its rows."""
    nothing = np.zeros(len(values), dtype=bool)
    best = _best_row(values)
    if best is None:
        return FirstPlace(None, nothing, nothing)
    to_best = _test_against_best(pair_p, best, len(values), to_baseline, baseline)
    if np.isnan(to_best).all():
        return FirstPlace(None, nothing, nothing)
    bold = _share_first_place(to_best, best)
    is_lower = _find_lower_rows(values, values[best])
    # Rows of different seeds may beat each other in a circle, and then none is the best.
    if (is_lower & (to_best < ALPHA)).any():
        return FirstPlace(None, nothing, nothing)
    if not bold.any():
        return FirstPlace(best, nothing, nothing)
    # Values that are the same are no test, and surely not told apart.
    bold |= _find_equal_rows(values, values[best])
    has_values = np.isfinite(values).any(axis=1)
    return FirstPlace(best, bold, has_values & np.isnan(to_best) & ~bold)


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
    to_best = _test_against_best(pair_p, best, rows, to_baseline, baseline)
    return _share_first_place(to_best, best)


def _test_against_best(
    pair_p: np.ndarray,
    best: int,
    rows: int,
    to_baseline: np.ndarray | None,
    baseline: int | None,
) -> np.ndarray:
    """Each row's p value of its pair with the best row, (rows,); NaN where there was no test. Arguments as above."""
    to_best = _against_best(pair_p, best, rows)
    if to_baseline is not None and baseline is not None:
        # What already differs from the baseline by the smaller family must not be bold beside it.
        if best == baseline:
            to_best = np.fmin(to_best, to_baseline)
        else:
            to_best[baseline] = np.fmin(to_best[baseline], to_baseline[best])
    return to_best


def _test_all_pairs(values: np.ndarray) -> np.ndarray:
    """The p value of each pair of rows, in the order of `np.triu_indices(rows, 1)`."""
    p_values = []
    for row in range(len(values)):
        p_values.append(_test_pairs(values[row + 1 :], values[row]))
    return np.concatenate(p_values)


def _best_row(values: np.ndarray) -> int | None:
    """The row that fewest others are below at common seeds, of those the one with the lowest mean; None without any.

    By means alone it would be a row that ran on easy seeds only, though it lost each of them.
    """
    means = _mean_of_rows(values)
    if np.isnan(means).all():
        return None
    below = np.array([_find_lower_rows(values, own).sum() for own in values])
    below[np.isnan(means)] = len(values)
    return int(np.lexsort((means, below))[0])


def _find_lower_rows(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which rows are lower than others on average over three common seeds or more, beyond rounding. Shape (rows,)."""
    means = _mean_of_rows(values / 2 - others / 2)
    return means < -ROUNDING * _measure_pairs(values, others)


def _mean_of_rows(values: np.ndarray) -> np.ndarray:
    """The mean of each row, (rows,); NaN where it has fewer than three values."""
    is_value = np.isfinite(values)
    counts = is_value.sum(axis=1)
    # Divided before they are added: a sum may be beyond all floats.
    weights = 1 / np.maximum(counts, 1)
    shares = np.where(is_value, values, 0.0) * weights[:, None]
    return np.where(counts >= LEAST_SEEDS, shares.sum(axis=1), np.nan)


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
