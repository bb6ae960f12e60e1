"""Parts of budgets: what a sweep trains of each job, all at once or, by halving, from one rung to the next."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tuneoff.sweeps import halving
from tuneoff.sweeps.plan import Point


class Part(NamedTuple):
    """One launch of a job: it trains from one share of its budget to another."""

    point: Point
    begin: float
    end: float

    @property
    def share(self) -> float:
        """How much of the budget it trains."""
        return self.end - self.begin

    @property
    def most_tokens(self) -> int | None:
        """The tokens that it takes at most; None where only the data or the machine show it."""
        budget = self.point.budget
        if budget is None or budget.most_tokens is None:
            return None
        if budget.kind != "max_steps":
            return math.ceil(budget.most_tokens * self.share)
        first = math.ceil(self.begin * budget.value)
        last = math.ceil(self.end * budget.value)
        return round(budget.most_tokens * (last - first) / budget.value)


def plan_parts(points: Sequence[Point], schedule: str | None = None) -> list[Part]:
    """Return what is left to train, by `tuning_schedule`; of halving the most that it may be.

    Raises:
        ConfigError: halving of methods that have other numbers of candidates.
    """
    if not halving.is_halving(schedule, points):
        return [Part(point, 0.0, 1.0) for point in points if not point.is_done]
    parts: list[Part] = []
    for candidates in halving.group_candidates(points).values():
        parts += list_rung_parts(candidates) or list_replacing_parts(candidates)
    return parts


def list_rung_parts(candidates: halving.Candidates) -> list[Part]:
    """The parts of one problem's candidates; of those that have no losses yet, the longest are taken to go on."""
    rungs = halving.plan_rungs(len(candidates))
    points = halving.list_points({(): candidates})
    done = {point.folder: halving.find_share_done(point) for point in points}

    def measure_rest(setting: tuple) -> float:
        rests = [Part(point, done[point.folder], 1.0) for point in candidates[setting]]
        return -sum(part.most_tokens or part.share for part in rests)

    parts: list[Part] = []
    for place, rung in enumerate(rungs):
        for point in halving.list_points({(): candidates}):
            if done[point.folder] < rung.share:
                parts.append(Part(point, done[point.folder], rung.share))
                done[point.folder] = rung.share
        if rung.share < 1:
            ranked = halving.rank_candidates(candidates, rung.share)
            if parts:
                ranked = sorted(candidates, key=measure_rest)
            count = rungs[place + 1].candidates
            candidates = {setting: candidates[setting] for setting in ranked[:count]}
    return parts


def list_replacing_parts(candidates: halving.Candidates) -> Iterator[Part]:
    """Yield the parts of a candidate that goes on in the place of a last one without a result, if there is one."""
    for launch in halving.list_launches(list(halving.list_points({(): candidates}))):
        for point in launch.points:
            yield Part(point, halving.find_share_done(point), launch.share)
        return
