"""Successive halving: each method's candidates get a short budget, the better half more, and the best one all of it.

A candidate that goes on is resumed from its checkpoint, not begun anew. Its rate follows the schedule of the whole
budget from the start, so that what is kept of a candidate is what a full run would have had.
Source: K. Jamieson and A. Talwalkar (2016), Non-stochastic best arm identification.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tuneoff.config import ConfigError
from tuneoff.record import RESULT, read_json
from tuneoff.sweeps.plan import Point
from tuneoff.sweeps.tuned_conditions import find_root

Candidates = dict[tuple, list[Point]]  # by setting, a point for each seed
KEY = "tuning_schedule"
HALVING = "halving"
OF_PROBLEM = ("method", "model", "data")


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


def has_reached(point: Point, share: float) -> bool:
    """Whether a point's run came to its end, or paused at this share of its budget or later."""
    return point.is_done or read_pause(read_json(point.folder / RESULT) or {}) >= share


def read_pause(result: dict) -> float:
    """The share of its budget after which a run paused; 0 where it did not."""
    share = result.get("paused_after")
    return share if isinstance(share, int | float) else 0.0


def read_loss_at(folder: Path, share: float) -> float:
    """Return the validation loss when a share of the budget was done; infinite where the run did not come so far."""
    result = read_json(folder / RESULT) or {}
    losses = {}
    curve = result.get("curve")
    for line in curve if isinstance(curve, list) else ():
        loss = line.get("validation_loss") if isinstance(line, dict) else None
        if isinstance(loss, int | float) and isinstance(line.get("step"), int):
            losses[line["step"]] = loss
    finished = result.get("status") == "finished"
    if not losses or not (finished or read_pause(result) >= share):
        return math.inf
    end = max(losses)
    due = end if not finished else share * end
    step = min(step for step in losses if step >= due)
    return float(losses[step])


def choose_better(candidates: Candidates, share: float, count: int) -> Candidates:
    """Return so many of the candidates, the lowest mean loss over seeds first; ties in their order."""

    def mean_loss(setting: tuple) -> float:
        losses = [read_loss_at(point.folder, share) for point in candidates[setting]]
        return sum(losses) / len(losses)

    ranked = sorted(candidates, key=mean_loss)
    return {setting: candidates[setting] for setting in ranked[:count]}


def list_points(problems: dict[tuple, Candidates]) -> Iterator[Point]:
    """Yield the points of all candidates."""
    for candidates in problems.values():
        for points in candidates.values():
            yield from points
