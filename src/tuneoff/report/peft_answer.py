"""The answer on others' results: ten sentences at most of what can be told apart and what cannot."""

from collections.abc import Callable, Sequence
from itertools import compress

import numpy as np

from tuneoff.report.peft_judgement import JudgedTable, Moves, find_front
from tuneoff.report.peft_results import PeftResult, note_differences
from tuneoff.report.proportions import smallest_difference
from tuneoff.report.stats import ALPHA

MOST_NAMED = 8
POWER = 0.8
TOP = 10  # places whose names are compared between two releases


def write_peft_answer(table: JudgedTable, moves: Moves | None) -> list[str]:
    """Return the sentences that a reader wants first, each made of the table's own tests."""
    sentences = [_describe_subject(table), _describe_best(table)]
    if len(table.results) > 1:
        sentences += [
            _describe_baseline(table),
            _describe_pairs(table),
            _describe_sensitivity(table),
            _describe_front(table, "peak memory", lambda result: result.peak_gib),
            _describe_front(table, "saved size", lambda result: result.saved_mib),
        ]
    if moves is not None:
        sentences += [_describe_accuracy_moves(moves), _describe_rank_moves(moves)]
    sentences.append(_describe_limits(table))
    return sentences


def _describe_subject(table: JudgedTable) -> str:
    first = table.results[0]
    halves = [50 * (high - low) for low, high in table.intervals]
    model = first.get("run_info.train_config.model_id")
    count = len(table.results)
    results = "1 result" if count == 1 else f"{count} results"
    return (
        f"{results} on {model}, one seed each, {first.examples:,} test examples: the median 95 % "
        f"interval of an accuracy is ±{np.median(halves):.1f} points."
    )


def _describe_best(table: JudgedTable) -> str:
    best = table.results[0]
    low, high = table.intervals[0]
    text = f"The highest accuracy, {show_share(best.accuracy)} [{show_range(low, high)}], is {best.name}'s"
    tied = list(compress(table.results, table.ties))
    others = [result for result in tied if result is not best]
    if len(table.results) == 1:
        return f"{text}; nothing else is there to compare it with."
    if not tied:
        return f"{text}; no result can be told from it (Holm over all pairs)."
    if not others:
        return f"{text}, and every other can be told from it (Holm over all pairs)."
    count = "1 other" if len(others) == 1 else f"{len(others)} others"
    return f"{text}; {count} cannot be told from it (Holm over all pairs)."


def _describe_baseline(table: JudgedTable) -> str:
    baseline = table.results[table.baseline]
    differs = table.baseline_p < ALPHA
    better = [row for row in np.flatnonzero(differs) if row < table.baseline]
    worse = int(differs.sum()) - len(better)
    tested = len(table.results) - 1
    names = [table.results[row].name for row in better]
    listing = f" ({_shorten(names)})" if names else ""
    unadjusted = tested - int(np.sum(table.raw_baseline_p < ALPHA))
    return (
        f"Against {baseline.name} ({show_share(baseline.accuracy)}), {len(better)} are better{listing}, {worse} worse, "
        f"and {tested - len(better) - worse} cannot be told from it (Holm; {unadjusted} without any adjustment)."
    )


def _describe_pairs(table: JudgedTable) -> str:
    rows = len(table.results)
    pairs = rows * (rows - 1) // 2
    unadjusted = int(np.sum(table.raw_pair_p < ALPHA)) // 2
    ranges = table.rank_ranges
    widths = [last - first + 1 for first, last in ranges]
    first, last = ranges[0]
    return (
        f"Of all {pairs:,} pairs {table.told_apart_pairs:,} can be told apart (Holm; {unadjusted:,} unadjusted), so "
        f"that a rank is known to within {np.median(widths):.0f} places at the median, the first to {first}–{last}."
    )


def _describe_sensitivity(table: JudgedTable) -> str:
    share = float(np.median([result.accuracy for result in table.results]))
    examples = table.results[0].examples
    tests = len(table.results) - 1
    alone = smallest_difference(share, examples, ALPHA, POWER)
    in_table = smallest_difference(share, examples, ALPHA / tests, POWER)
    return (
        f"At the median accuracy, {examples:,} examples show a difference of {100 * alone:.1f} points to a baseline "
        f"with 80 % power in a test alone, and of {100 * in_table:.1f} as the first of {tests} in Holm's order."
    )


def _describe_front(
    table: JudgedTable, title: str, cost_of: Callable[[PeftResult], float | None]
) -> str:
    front = find_front(table, cost_of)
    names = [result.name for result in front.measured]
    return (
        f"The Pareto front of accuracy against {title} is, as measured, {_shorten(names)}; "
        f"{len(front.possible)} results may be on it, because nothing as cheap is better by a test."
    )


def _describe_accuracy_moves(moves: Moves) -> str:
    changes = np.array([100 * move.accuracy_change for move in moves.moves])
    variances = []
    for move in moves.moves:
        share = (move.before.accuracy + move.after.accuracy) / 2
        variances.append(2 * share * (1 - share) / move.after.examples)
    chance = 100 * np.sqrt(np.mean(variances))
    differing = sum(move.p < ALPHA for move in moves.moves)
    return (
        f"Between the two releases the accuracies of {len(changes)} common experiments moved by "
        f"{np.sqrt(np.mean(changes**2)):.1f} points (root mean square; {changes.mean():+.1f} on average), where fresh "
        f"examples alone would move them by {chance:.1f}; {differing} differ by a test (Holm)."
    )


def _describe_rank_moves(moves: Moves) -> str:
    steps = np.array([abs(move.rank_change) for move in moves.moves])
    farthest = moves.moves[int(np.argmax(steps))]
    before = sorted(moves.moves, key=lambda move: move.rank_before)[:TOP]
    after = sorted(moves.moves, key=lambda move: move.rank_after)[:TOP]
    kept = len({move.name for move in before} & {move.name for move in after})
    return (
        f"Their ranks moved by {steps.mean():.1f} places on average (Kendall's tau {moves.kendall_tau:.2f}), the "
        f"farthest {farthest.name} from {farthest.rank_before:g} to {farthest.rank_after:g}; of the first "
        f"{len(before)}, {kept} were among the first before{_warn_of_conditions(moves)}."
    )


def _warn_of_conditions(moves: Moves) -> str:
    """What else the releases differ in, where they do: a move may be its doing."""
    if not moves.differing:
        return ""
    return f"; but the older runs are of {moves.differing}, which may have moved them"


def _describe_limits(table: JudgedTable) -> str:
    notes = list(note_differences(table.results))
    differing = f"; the rows also differ in {' and '.join(notes)}" if notes else ""
    tests = (
        "McNemar's test was used where the examples' scores lie beside both results"
        if table.paired
        else "no file has the examples' scores, so the tests are unpaired, which says less than the data could"
    )
    return (
        "What no test here can tell is what another seed or another learning rate would change, so a difference is one "
        f"of these runs and not yet of methods; {tests}{differing}."
    )


def show_share(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def show_range(low: float, high: float) -> str:
    """Return the ends of an interval in percent, without the sign."""
    return f"{100 * low:.1f}, {100 * high:.1f}"


def _shorten(names: Sequence[str]) -> str:
    text = ", ".join(names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{text} and {more} more" if more > 0 else text
