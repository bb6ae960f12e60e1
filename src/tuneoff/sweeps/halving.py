"""Successive halving: each method's candidates get a short budget, the better half more, and the best one all of it.

A candidate that goes on is resumed from its checkpoint, not begun anew. Its rate follows the schedule of the whole
budget from the start, so that what is kept of a candidate is what a full run would have had.
Source: K. Jamieson and A. Talwalkar (2016), Non-stochastic best arm identification.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tuneoff.config import ConfigError
from tuneoff.jobs.work import TrainWork
from tuneoff.record import RESULT, RESULTS, read_json, read_status
from tuneoff.sweeps.plan import Point
from tuneoff.sweeps.progress import label_job
from tuneoff.sweeps.rung_losses import lacks_loss_at, read_loss_at, read_pause
from tuneoff.sweeps.tuned_conditions import find_root

Candidates = dict[tuple, list[Point]]  # by setting, a point for each seed
KEY = "tuning_schedule"
HALVING = "halving"
OF_PROBLEM = ("method", "model", "data")


class Launch(NamedTuple):
    """Jobs that train until a share of their budget is done."""

    points: list[Point]
    share: float
    note: str = ""  # what to say beforehand


class Rung(NamedTuple):
    """So many candidates of each method train until a share of the budget is done."""

    candidates: int
    share: float


def plan_rungs(candidates: int) -> list[Rung]:
    """Return the rungs: half as many candidates at each, and twice the share, up to one candidate with all of it."""
    counts = [candidates]
    while counts[-1] > 1:
        counts.append(math.ceil(counts[-1] / 2))
    last = len(counts) - 1
    return [Rung(count, 2.0 ** (place - last)) for place, count in enumerate(counts)]


def sum_budgets(rungs: Sequence[Rung]) -> float:
    """Return what the rungs train in all, in whole budgets of one seed."""
    done = 0.0
    total = 0.0
    for rung in rungs:
        total += rung.candidates * (rung.share - done)
        done = rung.share
    return total


def group_candidates(points: Sequence[Point]) -> dict[tuple, Candidates]:
    """Return the points by problem (method, model, data), then by setting: a candidate has a point for each seed.

    Raises:
        ConfigError: problems with other numbers of candidates, whose tuning would cost more than others'.
    """
    problems: dict[tuple, Candidates] = {}
    for point in points:
        words = tuple(text for text in point.setting if find_root(text) in OF_PROBLEM)
        problems.setdefault(words, {}).setdefault(point.setting, []).append(point)
    counts = {len(candidates) for candidates in problems.values()}
    if len(counts) > 1:
        parts = [f"{' '.join(words)} has {len(problems[words])}" for words in problems]
        allowed = f"needs as many candidates of every method: {', '.join(parts)}"
        raise ConfigError(KEY, HALVING, allowed)
    return problems


def is_halving(schedule: str | None, points: Sequence[Point]) -> bool:
    """Whether a sweep is by halving: of predictions there is nothing to compare."""
    are_trained = all(point.work_type is TrainWork for point in points)
    return schedule == HALVING and are_trained


def refuse_unfair(points: Sequence[Point]) -> None:
    """Refuse what halving cannot compare.

    Raises:
        ConfigError: methods with other numbers of candidates; trials that are to be made again, or were trained further
            without the evaluations that the others are to be compared with.
    """
    rungs = plan_rungs(count_candidates(points))
    if len(rungs) == 1:
        return
    if any(point.rerun for point in points):
        allowed = (
            f"must be false with {KEY}={HALVING}, which goes on with the trials that are there; "
            "another hydra.sweep.dir begins anew"
        )
        raise ConfigError("rerun", True, allowed)
    if all(point.is_done for point in points):
        return
    for point in points:
        for rung in rungs[:-1]:
            if lacks_loss_at(point.folder, rung.share):
                allowed = (
                    f"must be grid, or hydra.sweep.dir another folder: {point.folder} was not evaluated "
                    f"after {rung.share:g} of its budget, where halving compares, and was trained further"
                )
                raise ConfigError(KEY, HALVING, allowed)


def count_candidates(points: Sequence[Point]) -> int:
    """Candidates of each problem.

    Raises:
        ConfigError: they are not as many for all.
    """
    return len(next(iter(group_candidates(points).values())))


def list_launches(points: Sequence[Point]) -> Iterator[Launch]:
    """Yield what is to be trained next, rung by rung; each must have been before the next is asked for.

    Where the last candidate came to no result, the best of those that were left behind goes on in its place.
    """
    problems = group_candidates(points)
    left_behind: dict[tuple, list[tuple]] = {words: [] for words in problems}
    remaining = dict(problems)
    rungs = plan_rungs(count_candidates(points))
    for place, rung in enumerate(rungs):
        yield from list_due(list_points(remaining), rung.share)
        if rung.share == 1:
            break
        for words, candidates in remaining.items():
            ranked = rank_candidates(candidates, rung.share)
            count = rungs[place + 1].candidates
            remaining[words] = {setting: candidates[setting] for setting in ranked[:count]}
            hopeful = drop_lost(candidates, ranked[count:], rung.share)
            left_behind[words] = hopeful + left_behind[words]
    yield from replace_lost(problems, remaining, left_behind)


def replace_lost(
    problems: dict[tuple, Candidates],
    remaining: dict[tuple, Candidates],
    left_behind: dict[tuple, list[tuple]],
) -> Iterator[Launch]:
    """Yield the next candidates in the place of last ones without a result, until each problem has one, or no more."""
    while True:
        replaced = []
        for words, candidates in remaining.items():
            if left_behind[words] and any(map(is_lost, list_points({words: candidates}))):
                setting = left_behind[words].pop(0)
                remaining[words] = {setting: problems[words][setting]}
                replaced += problems[words][setting]
        if not replaced:
            return
        for launch in list_due(replaced, 1.0):
            labels = dict.fromkeys(label_job(point.setting, None) for point in launch.points)
            note = f"halving: a last candidate came to no result; in its place goes on {'; '.join(labels)}"
            yield launch._replace(note=note)


def list_due(points: Iterable[Point], share: float) -> Iterator[Launch]:
    """Yield the points that have not come as far as a share, if there are any."""
    due = [point for point in points if not has_reached(point, share)]
    if due:
        yield Launch(due, share)


def has_reached(point: Point, share: float) -> bool:
    """Whether a point's run came to its end, or paused at this share of its budget or later."""
    return find_share_done(point) >= share


def find_share_done(point: Point) -> float:
    """The share of its budget that a point's run is done with: all where trying again would change nothing."""
    if read_status(point.folder) in RESULTS and not point.rerun:
        return 1.0
    return read_pause(read_json(point.folder / RESULT) or {})


def is_lost(point: Point) -> bool:
    """Whether a point's run came to an end without a loss, which trying again would not change."""
    status = read_status(point.folder)
    return status in RESULTS and status != "finished"


def mean_loss_at(candidate: Sequence[Point], share: float) -> float:
    """The mean loss of a candidate's seeds when a share of the budget was done."""
    losses = [read_loss_at(point.folder, share) for point in candidate]
    return sum(losses) / len(losses)


def rank_candidates(candidates: Candidates, share: float) -> list[tuple]:
    """Return the settings by their mean loss at a share, the lowest first; ties in their order."""
    return sorted(candidates, key=lambda setting: mean_loss_at(candidates[setting], share))


def drop_lost(candidates: Candidates, settings: Sequence[tuple], share: float) -> list[tuple]:
    """Return those of the settings that have a loss at a share, in their order."""
    return [
        setting for setting in settings if math.isfinite(mean_loss_at(candidates[setting], share))
    ]


def list_points(problems: dict[tuple, Candidates]) -> Iterator[Point]:
    """Yield the points of all candidates."""
    for candidates in problems.values():
        for points in candidates.values():
            yield from points
