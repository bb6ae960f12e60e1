"""What jobs of a sweep cost: seconds of each whatever it trains, and seconds for each part of its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tuneoff.record import RESULT, read_section
from tuneoff.sweeps.plan import Budget


class JobCost(NamedTuple):
    """What one job has taken."""

    work: float  # how much it trained, in the unit of its sweep
    fixed_seconds: float  # of starting, loading, evaluating and saving
    train_seconds: float


def measure_work(budgets: Sequence[Budget | None]) -> list[float]:
    """Return how much each job trains: in tokens, in what budgets count, or where these differ as if all alike."""
    given = [budget for budget in budgets if budget is not None]
    if len(given) < len(budgets):
        return [1.0] * len(budgets)
    tokens = [budget.most_tokens for budget in given if budget.most_tokens is not None]
    if len(tokens) == len(given):
        return [float(count) for count in tokens]
    if len({budget.kind for budget in given}) > 1:
        return [1.0] * len(given)
    return [budget.value for budget in given]


def read_cost(folder: Path, work: float, start_seconds: float = 0.0) -> JobCost | None:
    """Return what a job has taken by its record; None where it has none.

    Args:
        folder: of the job.
        work: how much it trained.
        start_seconds: before its record began, and after its end.
    """
    throughput = read_section(folder / RESULT, "throughput")
    whole = throughput.get("wall_seconds")
    if not isinstance(whole, int | float):
        return None
    trained = throughput.get("train_seconds")
    if not isinstance(trained, int | float):
        # What a record does not part is taken for training.
        return JobCost(work, start_seconds, whole)
    return JobCost(work, whole - trained + start_seconds, trained)


def estimate_seconds(costs: Sequence[JobCost], jobs: int, work: float) -> float:
    """Return the seconds of so many further jobs that train so much together."""
    fixed_seconds = sum(cost.fixed_seconds for cost in costs) / len(costs)
    seconds_by_work = sum(cost.train_seconds for cost in costs) / sum(cost.work for cost in costs)
    return fixed_seconds * jobs + seconds_by_work * work
