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

FirstPlace = tuple[np.ndarray, np.ndarray]  # as in `Verdict`: bold, and untested


@dataclass(frozen=True)
class Verdict:
    """For one column of a table: each row's adjusted p against the baseline (NaN: no test), and whether it is bold."""

    p: np.ndarray  # (rows,)
    bold: np.ndarray  # (rows,)
    untested: (
        np.ndarray
    )  # (rows,): whether it has values, of which no test against the best could be made
    equal: (
        np.ndarray
    )  # (rows,): whether its values are the baseline's, of which there is no test either

    def reorder(self, places: Sequence[int]) -> "Verdict":
        """Return the verdict of the rows in another order."""
        chosen = list(places)
        first_place = (self.bold[chosen], self.untested[chosen])
        return Verdict(self.p[chosen], *first_place, self.equal[chosen])


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
    rows = len(columns[0])
    nothing = np.zeros(rows, dtype=bool)
    if baseline is None:
        no_test = np.full(rows, np.nan)
        return [Verdict(no_test, *first, nothing) for first in _find_best_rows(columns)]
    raw = [_test_pairs(values, values[baseline]) for values in columns]
    against = np.split(adjust_by_holm(np.concatenate(raw)), len(columns))
    if any((p < ALPHA).any() for p in against):
        firsts = _find_best_rows(columns, against, baseline)
    else:
        firsts = [(nothing, nothing)] * len(columns)
    verdicts = []
    for values, p, first in zip(columns, against, firsts, strict=True):
        equal = _find_equal_rows(values, values[baseline])
        equal[baseline] = False
        verdicts.append(Verdict(p, *first, equal))
    return verdicts


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
        values = columns[index]
        nothing = np.zeros(len(values), dtype=bool)
        best = _best_row(values)
        if best is None:
            firsts.append((nothing, nothing))
            continue
        to_baseline = None if against is None else against[index]
        to_best = _test_against_best(pair_p, best, len(values), to_baseline, baseline)
        bold = _share_first_place(to_best, best)
        if not bold.any():
            firsts.append((nothing, nothing))
            continue
        # Values that are the same are no test, and surely not told apart.
        bold |= _find_equal_rows(values, values[best])
        has_values = np.isfinite(values).any(axis=1)
        firsts.append((bold, has_values & np.isnan(to_best) & ~bold))
    return firsts


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
    """The row with the lowest mean among those of enough seeds, or None."""
    present = np.ma.masked_invalid(values)
    enough = present.count(axis=1) >= LEAST_SEEDS
    if not enough.any():
        return None
    counts = np.maximum(present.count(axis=1), 1)
    # Divided before they are added: a sum may be beyond all floats.
    shares = present / counts[:, None]
    means = shares.sum(axis=1).filled(np.inf)
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
