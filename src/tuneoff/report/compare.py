"""Comparisons: rows of one method and setting, seeds paired, and the verdict of the statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tuneoff.report import comparability, stats
from tuneoff.report.notes import make_notes
from tuneoff.report.qualities import Quality, find_qualities
from tuneoff.report.ranking import Verdict, judge_columns
from tuneoff.report.records import ReportError, Run, phase_order
from tuneoff.report.row_making import make_rows
from tuneoff.report.rows import Row
from tuneoff.report.text import show_line
from tuneoff.report.tuned_order import order_as_tuned

Baseline = tuple[Row | None, str]  # with the reason for it
MOST_NAMES = 60  # in a message


@dataclass
class Comparison:
    """Runs that may stand in one table, as rows, with what the statistics say about them."""

    name: str
    rows: list[Row]
    baseline: Row | None
    baseline_reason: str
    qualities: list[Quality] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # `table.make_columns` keeps them here.
    columns: list[Any] | None = field(default=None, repr=False)

    @property
    def runs(self) -> list[Run]:
        """All runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def guarded_runs(self) -> list[Run]:
        """The runs that say what this comparison is of: the predictions where nothing else is there."""
        return self.runs or [run for row in self.rows for run in row.all_runs]

    @property
    def methods(self) -> list[str]:
        """The methods of its rows, sorted."""
        return sorted({row.method for row in self.rows})

    @property
    def row_names(self) -> set[str]:
        """What rows can be asked for by: their methods, and their own names."""
        names: set[str] = set()
        for row in self.rows:
            names.update((row.method, row.name))
        return names

    @property
    def phases(self) -> list[str]:
        """Phases that any finished row has, in their order."""
        phases = {phase for row in self.rows for phase in row.peaks}
        return sorted(phases, key=phase_order)

    @property
    def best_rows(self) -> list[Row]:
        """Each method's row with the lowest validation loss, for charts that show a method once."""
        return self._find_best(lambda row: (row.method,))

    @property
    def tuned_rows(self) -> list[Row]:
        """Each setting's row at its best learning rate."""
        return self._find_best(lambda row: (row.method, row.label))

    def _find_best(self, group_of: Callable[[Row], tuple]) -> list[Row]:
        """The row of each group with the lowest validation loss, as a tuning would choose it.

        Rows that were ranked come first: a tuning run is no competitor to the comparison it was made for.
        """
        finished = [row for row in self.rows if row.finished]
        ranked = []
        if self.qualities:
            ranked = [row for row in finished if row.values_by_seed(self.qualities[0].path)]
        groups: dict[tuple, list[Row]] = {}
        for row in ranked or finished:
            groups.setdefault(group_of(row), []).append(row)
        return [order_as_tuned(groups[group])[0] for group in sorted(groups)]

    def example_scores(self, quality: Quality, row: Row) -> np.ndarray | None:
        """Return each example's mean score over seeds, (examples,), or None where there are no scores."""
        return _mean_over_seeds(row.scores_by_seed(quality.metric))

    def example_differences(self, quality: Quality, row: Row) -> np.ndarray | None:
        """Return each example's mean difference to the baseline's score over common seeds, (examples,), or None."""
        if self.baseline is None:
            return None
        scores = row.scores_by_seed(quality.metric)
        base = self.baseline.scores_by_seed(quality.metric)
        differences = {}
        for seed in scores.keys() & base.keys():
            if len(scores[seed]) == len(base[seed]):
                differences[seed] = scores[seed] - base[seed]
        return _mean_over_seeds(differences)

    def difference(self, quality: Quality, row: Row) -> stats.Estimate | None:
        """Return the paired difference to the baseline over common seeds; None for the baseline or without one."""
        if self.baseline is None or row is self.baseline:
            return None
        return stats.estimate_mean(row.differences_to(self.baseline, quality.path))


def _mean_over_seeds(by_seed: dict[int, np.ndarray]) -> np.ndarray | None:
    if not by_seed:
        return None
    return np.mean(list(by_seed.values()), axis=0)


def make_comparisons(runs: Sequence[Run], baseline: str | None, strict: bool) -> list[Comparison]:
    """Return comparisons, the largest first; more than one where records differ in what must agree.

    Raises:
        ReportError: no record has the baseline, or records must be split and `strict` refuses.
    """
    groups = comparability.split_comparable(runs)
    differing = comparability.find_differences(groups)
    if strict and len(groups) > 1:
        raise ReportError(_refuse_split(differing))
    comparisons = []
    for index, group in enumerate(groups):
        comparison = _make_comparison(_comparison_name(index), group, baseline)
        if differing:
            texts = [f"{name} {values[index]}" for name, values in differing.items()]
            listing = "; ".join(texts)
            comparison.notes.append(
                f"Not comparable with the other tables of this report: {listing}."
            )
        comparisons.append(comparison)
    if baseline is not None:
        _check_baseline(baseline, comparisons)
    return comparisons


def _refuse_split(differing: comparability.Differences) -> str:
    """Why `--strict` refuses: each field that differs, with its values."""
    reasons = []
    for name, values in differing.items():
        listing = ", ".join(dict.fromkeys(values))
        reasons.append(f"{name} ({listing})")
    fields = "; ".join(reasons)
    return f"--strict: the records cannot stand in one table, they differ in {fields}"


def _comparison_name(index: int) -> str:
    """A to Z, then Z1, Z2 and so on."""
    return chr(ord("A") + index) if index < 26 else f"Z{index - 25}"


def _check_baseline(baseline: str, comparisons: Sequence[Comparison]) -> None:
    """Raise ReportError where no row has this name or method."""
    names: set[str] = set()
    for comparison in comparisons:
        names |= comparison.row_names
    if baseline not in names:
        listing = ", ".join(sorted(names)[:MOST_NAMES])
        if len(names) > MOST_NAMES:
            listing += f" and {len(names) - MOST_NAMES} more"
        raise ReportError(f"--baseline {show_line(baseline)}: must be one of {listing}")


def _make_comparison(name: str, runs: Sequence[Run], wanted: str | None) -> Comparison:
    rows, notes = make_rows(runs)
    baseline, reason = _choose_baseline(rows, wanted)
    qualities = find_qualities(rows)
    columns = [_quality_matrix(rows, quality) for quality in qualities]
    place = None if baseline is None else rows.index(baseline)
    verdicts = judge_columns(columns, place)
    notes += make_notes(rows, baseline)
    return Comparison(name, rows, baseline, reason, qualities, verdicts, notes)


def _choose_baseline(rows: Sequence[Row], wanted: str | None) -> Baseline:
    """The row that others are compared with, and why: as asked, or the one that trains most with most state."""
    if len(rows) == 1:
        return None, ""
    finished = [row for row in rows if row.finished]
    if wanted is None:
        if not finished:
            return None, ""
        reason = "it trains the most parameters; --baseline chooses another"
        most = min(map(_training_size_order, finished))
        largest = [row for row in finished if _training_size_order(row) == most]
        return order_as_tuned(largest)[0], reason
    candidates = [row for row in finished if wanted in (row.method, row.name)]
    if not candidates:
        return None, f"no finished run of the baseline {wanted}"
    return order_as_tuned(candidates)[0], "as asked"


def _training_size_order(row: Row) -> tuple:
    """What sorts rows by how much they train at once: parameters, then gradients and optimizer state in GiB."""
    run = next(iter(row.finished.values()))
    trainable = run.number("parameters.trainable") or 0
    gradients = run.breakdown.get("gradients", 0.0)
    optimizer_state = run.breakdown.get("optimizer_state", 0.0)
    state = round(gradients + optimizer_state, 3)
    return (-trainable, -state)


def _quality_matrix(rows: Sequence[Row], quality: Quality) -> np.ndarray:
    """(rows, seeds) of a measure, negated where higher is better; NaN where there is no figure."""
    seeds = sorted({seed for row in rows for seed in row.finished})
    matrix = np.full((len(rows), len(seeds)), np.nan)
    columns = {seed: column for column, seed in enumerate(seeds)}
    for index, row in enumerate(rows):
        for seed, value in row.values_by_seed(quality.path).items():
            matrix[index, columns[seed]] = value
    return matrix if quality.lower_is_better else -matrix
