"""Judgement of others' results: which can be told apart by their test examples alone, and which cannot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuneoff.report.peft_results import PeftResult, compare_conditions
from tuneoff.report.proportions import compare_shares, mcnemar_p_value, wilson_interval
from tuneoff.report.ranking import find_ties
from tuneoff.report.records import ReportError
from tuneoff.report.stats import ALPHA, adjust_by_holm, find_pareto_front
from tuneoff.report.text import show_line

MOST_NAMES = 60  # in a message


@dataclass(frozen=True)
class JudgedTable:
    """Results by falling accuracy, with what the tests say. All p values are adjusted by Holm, over their family."""

    results: list[PeftResult]
    baseline: int
    intervals: list[tuple[float, float]]  # 95 %, of each accuracy
    baseline_p: np.ndarray  # (rows,), NaN for the baseline; the family is the rows
    raw_baseline_p: np.ndarray  # (rows,) before Holm
    pair_p: np.ndarray  # (rows, rows), NaN on the diagonal; the family is all pairs
    raw_pair_p: np.ndarray  # (rows, rows) before Holm
    ties: np.ndarray  # (rows,) the best and what cannot be told from it
    paired: bool  # whether any test was of the same examples

    @property
    def rank_ranges(self) -> list[tuple[int, int]]:
        """The first and last rank that each row may have: what surely beats it comes before, what it beats after."""
        ranges = []
        rows = len(self.results)
        for row in range(rows):
            told_apart = np.flatnonzero(self.pair_p[row] < ALPHA)
            better = int(np.sum(told_apart < row))
            worse = len(told_apart) - better
            ranges.append((1 + better, rows - worse))
        return ranges

    @property
    def told_apart_pairs(self) -> int:
        """How many pairs of rows differ, after Holm."""
        return int(np.sum(self.pair_p < ALPHA)) // 2


@dataclass(frozen=True)
class Front:
    """The Pareto front of accuracy against a cost: as measured, and what may be on it for all that the tests say."""

    measured: list[PeftResult]
    possible: list[PeftResult]


def judge_results(results: Sequence[PeftResult], wanted: str | None) -> JudgedTable:
    """Judge results that may stand in one table.

    Raises:
        ReportError: no result has the name of the wanted baseline.
    """
    ordered = sorted(results, key=lambda result: (-result.correct, result.name))
    baseline = _choose_baseline(ordered, wanted)
    raw = _test_all_pairs(ordered)
    upper = np.triu_indices(len(ordered), 1)
    adjusted = adjust_by_holm(raw[upper])
    pair_p = np.full(raw.shape, np.nan)
    pair_p[upper] = adjusted
    pair_p.T[upper] = adjusted
    baseline_p = adjust_by_holm(raw[baseline])
    # Without the gate of our own tables: what all pairs show is said beside it in any case.
    ties = find_ties(adjusted, 0, len(ordered), baseline_p, baseline)
    return JudgedTable(
        ordered,
        baseline,
        [wilson_interval(result.correct, result.examples) for result in ordered],
        baseline_p,
        raw[baseline],
        pair_p,
        raw,
        ties,
        sum(result.scores is not None for result in ordered) > 1,
    )


def _choose_baseline(results: Sequence[PeftResult], wanted: str | None) -> int:
    """The row that others are compared with: as asked by name, or the one that trains the most parameters."""
    if wanted is None:
        # Among equals by name: a choice by accuracy would make the tests against it find too much.
        order = [(-(result.trainable or 0), result.name) for result in results]
        return order.index(min(order))
    names = [result.name for result in results]
    if wanted not in names:
        listing = ", ".join(sorted(names)[:MOST_NAMES])
        raise ReportError(f"--baseline {show_line(wanted)}: must be one of {listing}")
    return names.index(wanted)


def _test_all_pairs(results: Sequence[PeftResult]) -> np.ndarray:
    """(rows, rows) of p values: McNemar's where both have scores of the examples, else of two independent shares."""
    counts = np.array([result.correct for result in results], dtype=float)
    rows = counts[:, None]
    columns = counts[None, :]
    p_values = compare_shares(rows, columns, results[0].examples)
    scored = [row for row, result in enumerate(results) if result.scores is not None]
    for place, first in enumerate(scored):
        for second in scored[place + 1 :]:
            p_value = _test_paired(results[first], results[second])
            p_values[first, second] = p_value
            p_values[second, first] = p_value
    np.fill_diagonal(p_values, np.nan)
    return p_values


def _test_paired(first: PeftResult, second: PeftResult) -> float:
    assert first.scores is not None
    assert second.scores is not None
    return mcnemar_p_value(first.scores, second.scores)


def find_front(table: JudgedTable, cost_of: Callable[[PeftResult], float | None]) -> Front:
    """Return the front of accuracy against a cost, of which less is better.

    A row may be on the front unless another that costs no more is better by a test of all pairs.
    """
    costs = [cost_of(result) for result in table.results]
    priced = []
    points = []
    for row, cost in enumerate(costs):
        if cost is not None:
            priced.append(row)
            points.append((cost, -table.results[row].accuracy))
    measured = [table.results[priced[index]] for index in find_pareto_front(points)]
    possible = [table.results[row] for row in priced if not _is_beaten(table, costs, row)]
    return Front(measured, possible)


def _is_beaten(table: JudgedTable, costs: list[float | None], row: int) -> bool:
    """Whether a row that costs no more is surely better. Rows are in the order of falling accuracy."""
    own_cost = costs[row]
    for other in range(row):
        cost = costs[other]
        if cost is None or own_cost is None or cost > own_cost:
            continue
        if table.pair_p[other, row] < ALPHA:
            return True
    return False


# ---------------------------------------------------------------- two releases
@dataclass(frozen=True)
class Move:
    """One experiment in two releases: its accuracies, its ranks among what both have, and a test of the change."""

    name: str
    before: PeftResult
    after: PeftResult
    rank_before: float
    rank_after: float
    p: float  # adjusted by Holm over all experiments

    @property
    def accuracy_change(self) -> float:
        """The change of the share of right answers."""
        return self.after.accuracy - self.before.accuracy

    @property
    def rank_change(self) -> float:
        """By how many places it fell; negative: rose."""
        return self.rank_after - self.rank_before


@dataclass(frozen=True)
class Moves:
    """What moved between two releases."""

    moves: list[Move]
    kendall_tau: float
    only_before: int
    only_after: int
    differing: str  # the conditions of the older runs that are not the newer ones'; empty where there are none


def compare_releases(before: Sequence[PeftResult], after: Sequence[PeftResult]) -> Moves:
    """Compare the experiments that two releases have in common, by their names.

    Args:
        before: the older results, which may stand in one table.
        after: the newer ones, likewise.

    Raises:
        ReportError: they have fewer than two in common, or other numbers of test examples.
    """
    earlier = {result.name: result for result in before}
    later = {result.name: result for result in after}
    names = sorted(earlier.keys() & later.keys())
    if len(names) < 2:
        raise ReportError("the two folders have fewer than two experiments in common")
    examples = {result.examples for result in (*before, *after)}
    if len(examples) > 1:
        raise ReportError(f"the two folders are of other numbers of test examples: {examples}")
    first = np.array([earlier[name].correct for name in names], dtype=float)
    second = np.array([later[name].correct for name in names], dtype=float)
    p_values = adjust_by_holm(compare_shares(first, second, examples.pop()))
    ranks_before = rank_descending(first)
    ranks_after = rank_descending(second)
    moves = []
    for place, name in enumerate(names):
        move = Move(
            name,
            earlier[name],
            later[name],
            float(ranks_before[place]),
            float(ranks_after[place]),
            float(p_values[place]),
        )
        moves.append(move)
    tau = measure_agreement(first, second)
    only_before = len(earlier) - len(names)
    only_after = len(later) - len(names)
    differing = compare_conditions(before[0], after[0])
    return Moves(moves, tau, only_before, only_after, differing)


def rank_descending(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1 for the highest value; equal values share the mean of theirs."""
    higher = np.sum(values[None, :] > values[:, None], axis=1)
    equal = np.sum(values[None, :] == values[:, None], axis=1)
    return higher + (equal + 1) / 2


def measure_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return Kendall's tau-b of two orders: 1 where all pairs agree, 0 where as many agree as disagree.

    Source: M. G. Kendall (1945), The treatment of ties in ranking problems. (All of scipy.stats is slow to import.)
    """
    upper = np.triu_indices(len(first), 1)
    signs = np.sign(first[:, None] - first[None, :])[upper]
    others = np.sign(second[:, None] - second[None, :])[upper]
    untied = np.sqrt(np.sum(signs != 0) * np.sum(others != 0))
    return float(np.sum(signs * others) / untied) if untied else 0.0
