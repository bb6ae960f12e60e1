"""Losses at the rungs of halving: what the validation loss of a run was when a share of its budget was done."""

import math
from pathlib import Path
from typing import Any

from tuneoff.record import RESULT, RESULTS, read_json, read_metrics

Losses = dict[int, float]  # of the validation rows, by step
SECONDS = "max_seconds"
ROUNDING = 1e-6  # of a step


def read_loss_at(folder: Path, share: float) -> float:
    """Return the validation loss when a share of the budget was done; infinite where the run did not come so far.

    A run evaluates where it pauses, so there is one at that step; patience may have ended a run before, whose last one
    counts. What diverged later had a loss here, by which it was chosen, and would be again.
    """
    result = read_json(folder / RESULT) or {}
    losses = read_losses(folder, result)
    due = find_due_step(losses, result, share)
    if due is None:
        return math.inf
    if is_finished(result) or read_pause(result) >= share:
        return losses[find_nearest(losses, due)]
    return losses.get(due, math.inf) if result.get("status") in RESULTS else math.inf


def lacks_loss_at(folder: Path, share: float) -> bool:
    """Whether a run that may count has been trained beyond a share of the budget, and was not evaluated there."""
    result = read_json(folder / RESULT) or {}
    losses = read_losses(folder, result)
    due = find_due_step(losses, result, share)
    stopped_early = read_part(result, "kept").get("stopped_early_at") is not None
    is_lost = result.get("status") in RESULTS and not is_finished(result)
    if due is None or stopped_early or is_lost:
        return False
    last = max(line["step"] for line in read_curve(folder, result))
    if due >= last:
        return False
    nearest = find_nearest(losses, due)
    if read_part(result, "budget").get("kind") == SECONDS:
        # Steps do not all take as long, so that it may have paused a little before or after.
        return nearest in (0, last)
    return nearest != due


def read_curve(folder: Path, result: dict) -> list[dict]:
    """The lines of a run that have a step; those that its result has kept where metrics.jsonl is lost."""
    curve = list(read_metrics(folder)) or result.get("curve")
    lines = curve if isinstance(curve, list) else []
    objects = [line for line in lines if isinstance(line, dict)]
    return [line for line in objects if isinstance(line.get("step"), int)]


def read_losses(folder: Path, result: dict) -> Losses:
    """The validation losses of a run by step."""
    losses = {}
    for line in read_curve(folder, result):
        loss = line.get("validation_loss")
        if isinstance(loss, int | float):
            losses[line["step"]] = float(loss)
    return losses


def find_due_step(losses: Losses, result: dict, share: float) -> int | None:
    """The step before which a run pauses for a share of its budget; None where that is not known.

    Only a budget in steps says how many there are. Of another the run's last step does, which is where it ended or
    paused: rungs halve each other, so that rounding it up comes to the same.
    """
    if not losses:
        return None
    budget = read_part(result, "budget")
    steps = budget.get("value")
    done = 1.0
    if budget.get("kind") != "max_steps" or not isinstance(steps, int | float):
        steps = max(losses)
        done = 1.0 if is_finished(result) else read_pause(result)
    return math.ceil(share * steps / done - ROUNDING) if done else None


def find_nearest(losses: Losses, due: int) -> int:
    """The step of the evaluation nearest to the one that is due."""
    return min(losses, key=lambda step: abs(step - due))


def is_finished(result: dict) -> bool:
    """Whether a run came to the end of its budget, or of its patience."""
    return result.get("status") == "finished"


def read_pause(result: dict) -> float:
    """The share of its budget after which a run paused; 0 where it did not."""
    share = result.get("paused_after")
    return share if isinstance(share, int | float) else 0.0


def read_part(result: dict, key: str) -> dict[str, Any]:
    """A part of a result that holds keys; empty where it is something else."""
    part = result.get(key)
    return part if isinstance(part, dict) else {}
