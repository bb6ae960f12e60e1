"""Forecasts: what a sweep is about to do, in jobs, tokens and time, before its first job starts."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tuneoff.record.secrets import mask_secrets
from tuneoff.sweeps.job_costs import estimate_seconds, measure_work, read_cost
from tuneoff.sweeps.plan import Budget, Point
from tuneoff.sweeps.progress import format_duration

UNITS = {"epochs": "epochs", "max_steps": "steps", "max_tokens": "tokens", "max_seconds": "s"}


def describe_plan(points: Sequence[Point]) -> str:
    """Return one line: `4 jobs to run, 2 done before; 180 steps each, at most 1,474,560 tokens in all`."""
    waiting = [point for point in points if not point.is_done]
    counts = f"{len(waiting)} jobs to run, {len(points) - len(waiting)} done before"
    budgets = [point.budget for point in waiting if point.budget is not None]
    if len(budgets) < len(waiting) or not waiting:
        return counts  # predictions have no budget
    parts = [counts, ", ".join(_list_budgets(budgets))]
    tokens = [budget.most_tokens for budget in budgets]
    if None not in tokens:
        parts[-1] += f", at most {sum(filter(None, tokens)):,} tokens in all"
    seconds = _forecast_seconds(points)
    if seconds is not None:
        forecast = format_duration(seconds)
        parts.append(f"about {forecast} one after another, by those that are done")
    return "; ".join(parts)


def _list_budgets(budgets: Sequence[Budget]) -> Iterator[str]:
    """Yield `180 steps each`, or where they differ `180 steps (4 jobs)` for each of them."""
    counts = Counter((budget.kind, budget.value) for budget in budgets)
    for (kind, value), count in counts.items():
        jobs = "each" if len(counts) == 1 else f"({count} jobs)"
        yield f"{value:,.12g} {UNITS[kind]} {jobs}"


def _forecast_seconds(points: Sequence[Point]) -> float | None:
    """The seconds of the jobs that wait, by what those that are done have taken; None where none is."""
    works = measure_work([point.budget for point in points])
    costs = []
    waiting = []
    for point, work in zip(points, works, strict=True):
        if not point.is_done:
            waiting.append(work)
            continue
        cost = read_cost(point.folder, work)
        if cost is not None:
            costs.append(cost)
    return estimate_seconds(costs, len(waiting), sum(waiting)) if costs else None


def list_jobs(points: Sequence[Point]) -> Iterator[str]:
    """Yield a line for each job of a plan: whether it is done, its settings, and its folder."""
    for number, point in enumerate(points, 1):
        state = "done" if point.is_done else "to run"
        own = [word for word in point.overrides if not word.startswith("dry_run=")]
        settings = " ".join(mask_secrets(own))
        yield f"[{number}/{len(points)}] {state}: {settings}  {point.folder}"
