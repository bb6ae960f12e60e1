"""The answer: what a comparison shows, in sentences made of the same tests as its table, and no more than they show."""

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np

from tuneoff.report import stats
from tuneoff.report.answer_costs import (
    describe_failures,
    describe_memory,
    describe_speed,
    order_by_mean,
)
from tuneoff.report.cells import difference_cell, estimate_cell
from tuneoff.report.compare import Comparison
from tuneoff.report.qualities import Quality
from tuneoff.report.ranking import Verdict, find_differing
from tuneoff.report.rows import Row, first_known
from tuneoff.report.text import cut_name, join_names, shorten_list


def write_answer(comparison: Comparison) -> list[str]:
    """Return the sentences that a reader wants first: quality, then memory, speed, and what failed."""
    sentences: list[str] = []
    finished = [row for row in comparison.rows if row.finished]
    if not comparison.qualities:
        sentences.append(f"{_describe_subject(comparison)}no run has finished.")
    elif len(finished) == 1:
        sentences.append(_describe_alone(comparison, finished[0]))
    else:
        sentences += _describe_quality(comparison, finished)
    if len(finished) > 1:
        sentences += describe_memory(comparison, finished)
        sentences += describe_speed(comparison, finished)
    sentences += describe_failures(comparison)
    return [_begin_sentence(text) for text in sentences]


def _begin_sentence(text: str) -> str:
    """With a capital, unless it begins with a row's name, which stays as it is written."""
    return f"N{text[1:]}" if text.startswith(("no ", "nothing ")) else text


def _describe_subject(comparison: Comparison) -> str:
    """`On gsm8k with SmolLM2-135M, `."""
    data = first_known(comparison.rows, "config.data.name")
    model = first_known(comparison.rows, "config.model.name")
    if not data or not model:
        return ""
    return f"On {cut_name(str(data))} with {cut_name(str(model))}, "


def _describe_alone(comparison: Comparison, row: Row) -> str:
    quality = comparison.qualities[0]
    value = _show_mean(row, quality)
    return (
        f"{_describe_subject(comparison)}{row.name} came to a {quality.title.lower()} of {value}; "
        "nothing else has finished to compare it with."
    )


# ---------------------------------------------------------------- quality
def _describe_quality(comparison: Comparison, finished: Sequence[Row]) -> Iterator[str]:
    """What may be said of each measure: a ranking where the tests allow one, else why there is none."""
    quality = comparison.qualities[0]
    reason = find_obstacle(comparison, finished)
    if reason is not None:
        yield f"{_describe_subject(comparison)}nothing is ranked: {reason}."
        values = order_by_mean(finished, quality.path)
        if len(values) > 1:
            _, low = values[0]
            _, high = values[-1]
            yield (
                f"{quality.heading} was measured from {_show_mean(low, quality)} ({low.name}) "
                f"to {_show_mean(high, quality)} ({high.name})."
            )
        return
    subject = _describe_subject(comparison)
    for index, quality in enumerate(comparison.qualities):
        verdict = comparison.verdicts[index]
        yield f"{subject}{_describe_best(comparison, quality, verdict)}"
        yield from _describe_against_baseline(comparison, quality, verdict)
        subject = ""


def find_obstacle(comparison: Comparison, finished: Sequence[Row]) -> str | None:
    """Return why the rows cannot be ranked, in words; None where they can."""
    quality = comparison.qualities[0]
    enough = [row for row in finished if _has_enough_seeds(row, quality)]
    if len(enough) < 2:
        return _explain_few_values(finished, quality)
    overridden = [row for row in enough if row.tuned_rate is not None]
    if overridden:
        return f"the learning rates of {list_names(overridden)} are not those that were tuned"
    untuned = [row for row in enough if not row.has_tuned_rate]
    if len(untuned) == len(enough):
        return "the learning rates were not tuned, so that a difference may be one of rates"
    if untuned:
        names = list_names(untuned)
        return f"the learning rates of {names} were not tuned, so that a difference may be one of rates"
    otherwise = [row for row in enough if row.tuned_otherwise]
    if otherwise:
        return f"{list_names(otherwise)} were tuned under other settings than these"
    return None


def _explain_few_values(finished: Sequence[Row], quality: Quality) -> str:
    """Why fewer than two rows have enough values: too few seeds have finished, or some did without the value."""
    enough = [row for row in finished if len(row.finished) >= stats.LEAST_SEEDS]
    if len(enough) < 2:
        return (
            f"fewer than {stats.LEAST_SEEDS} seeds of two rows have finished, "
            "and one or two runs say nothing about the spread"
        )
    without = [row for row in enough if not _has_enough_seeds(row, quality)]
    return (
        f"fewer than {stats.LEAST_SEEDS} of the finished seeds of {list_names(without)} "
        f"have a {quality.title.lower()}"
    )


def _has_enough_seeds(row: Row, quality: Quality) -> bool:
    return len(row.values_by_seed(quality.path)) >= stats.LEAST_SEEDS


def _describe_best(comparison: Comparison, quality: Quality, verdict: Verdict) -> str:
    """Which rows share the first place, by tests of all pairs."""
    title = quality.title.lower()
    if verdict.best is None or not verdict.bold.any():
        return _explain_no_best(comparison, title, verdict)
    first = comparison.rows[verdict.best]
    others = [row for row in compress(comparison.rows, verdict.bold) if row is not first]
    others.sort(key=lambda row: _mean(row, quality), reverse=not quality.lower_is_better)
    order = "lowest" if quality.lower_is_better else "highest"
    untested = list(compress(comparison.rows, verdict.untested))
    rest = f"; not tested against it: {list_names(untested)}" if untested else ""
    beyond = _list_beyond(comparison.rows, first, quality)
    where = ""
    if beyond:
        where = f" at {stats.LEAST_SEEDS} common seeds or more"
        direction = "lower" if quality.lower_is_better else "higher"
        rest += f"; {direction}, but over other or too few seeds: {list_names(beyond)}"
    sentence = f"{_name_judged(first)} has the {order} {title}{where}, {_show_mean(first, quality)}"
    if others:
        return f"{sentence}; {_list_judged(others)} cannot be told from it{rest}."
    tested = [row for row in comparison.rows if _has_enough_seeds(row, quality)]
    count = len(set(tested) - {first, *untested})
    differing = "the one other row" if count == 1 else f"all {count} other rows"
    if untested:
        differing += " that could be tested"
    return f"{sentence}, and differs from {differing}{rest}."


def _explain_no_best(comparison: Comparison, title: str, verdict: Verdict) -> str:
    """Why no row is called the best: no test says so, or none was made since nothing differs from the baseline."""
    baseline = comparison.baseline
    against = [verdict.p for verdict in comparison.verdicts]
    if baseline is not None and not find_differing(against):
        return (
            f"no row can be told from {baseline.name} in any measure (paired t over seeds, Holm), "
            f"so which is best in {title} was not tested."
        )
    if verdict.best is None:
        return f"no test says which row is best in {title} (paired t over seeds, Holm)."
    return f"no row can be told from the best in {title} (paired t over seeds, Holm)."


def _list_beyond(rows: Sequence[Row], first: Row, quality: Quality) -> list[Row]:
    """The rows whose mean over their own seeds is better than that of the best at common seeds."""
    sign = 1 if quality.lower_is_better else -1
    limit = _mean(first, quality)
    margin = stats.ROUNDING * abs(limit)
    beyond = []
    for row in rows:
        estimate = row.estimate(quality.path)
        if estimate and sign * (limit - estimate.mean) > margin:
            beyond.append(row)
    return beyond


def _describe_against_baseline(
    comparison: Comparison, quality: Quality, verdict: Verdict
) -> Iterator[str]:
    """What differs from the baseline: another question, with fewer tests, than which is best."""
    baseline = comparison.baseline
    if baseline is None:
        return
    better = []
    worse = []
    same = []
    untested = []
    base = baseline.estimate(quality.path)
    for place, row in enumerate(comparison.rows):
        p = verdict.p[place]
        difference = comparison.difference(quality, row)
        if difference is None:
            if row is not baseline and row.values_by_seed(quality.path):
                untested.append(row)  # without a common seed
            continue
        if verdict.equal[place] or p >= stats.ALPHA:
            same.append(row)
            continue
        if np.isnan(p):
            untested.append(row)
            continue
        is_better = (difference.mean < 0) == quality.lower_is_better
        text = difference_cell(difference, base).text.lstrip("+−")
        change = (abs(difference.mean), f"{_name_judged(row)} by {text}")
        if is_better:
            better.append(change)
        else:
            worse.append(change)
    parts = []
    for word, changes in (("better", better), ("worse", worse)):
        if changes:
            ranked = [text for _, text in sorted(changes)]
            parts.append(f"{word}: {shorten_list(ranked)}")
    if same:
        parts.append(f"not told from it: {_list_judged(same)}")
    if untested:
        parts.append(f"not tested: {list_names(untested)}")
    if parts:
        listing = "; ".join(parts)
        yield f"Against {baseline.name} alone, in {quality.title.lower()}, {listing}."


def _name_judged(row: Row) -> str:
    """A row's name, and whether its mean is one of survivors: a seed that diverged is worse than any loss."""
    if not row.diverged:
        return row.name
    return f"{row.name} (without its {row.diverged} of {len(row.runs)} seeds that diverged)"


def _list_judged(rows: Sequence[Row]) -> str:
    return join_names([_name_judged(row) for row in rows])


def _mean(row: Row, quality: Quality) -> float:
    estimate = row.estimate(quality.path)
    return estimate.mean if estimate else np.inf


def _show_mean(row: Row, quality: Quality) -> str:
    return estimate_cell(row.estimate(quality.path)).text


def list_names(rows: Sequence[Row]) -> str:
    """Return the rows' names as `a, b and c`, shortened where there are many."""
    return join_names([row.name for row in rows])
