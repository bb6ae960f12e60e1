"""Forecasts: what a sweep is about to do, in jobs, tokens and time, before its first job starts."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tuneoff.record.secrets import mask_secrets
from tuneoff.sweeps.job_costs import estimate_seconds, measure_work, read_cost
from tuneoff.sweeps.parts import Part
from tuneoff.sweeps.plan import Budget, Point
from tuneoff.sweeps.progress import format_duration

UNITS = {"epochs": "epochs", "max_steps": "steps", "max_tokens": "tokens", "max_seconds": "s"}


def describe_plan(points: Sequence[Point], parts: Sequence[Part]) -> str:
    """Return one line: `4 jobs to run, 2 done before; 180 steps each, at most 1,474,560 tokens in all`.

    Args:
        points: all jobs.
        parts: what is to be trained of them.
    """
    waiting = list_waiting(points, parts)
    counts = f"{len(waiting)} jobs to run, {len(points) - len(waiting)} done before"
    budgets = [point.budget for point in waiting if point.budget is not None]
    if len(budgets) < len(waiting) or not waiting:
        return counts  # predictions have no budget
    most = "" if all(part.share == 1 for part in parts) else "up to "
    described = [counts, most + ", ".join(_list_budgets(budgets))]
    tokens = [part.most_tokens for part in parts]
    if None not in tokens:
        described[-1] += f", at most {sum(filter(None, tokens)):,} tokens in all"
    seconds = _forecast_seconds(points, parts)
    if seconds is not None:
        forecast = format_duration(seconds)
        described.append(f"about {forecast} one after another, by those that are done")
    return "; ".join(described)


def list_waiting(points: Sequence[Point], parts: Sequence[Part]) -> list[Point]:
    """The jobs of which a part is to be trained, in their order."""
    folders = {part.point.folder for part in parts}
    return [point for point in points if point.folder in folders]


def _list_budgets(budgets: Sequence[Budget]) -> Iterator[str]:
    """Yield `180 steps each`, or where they differ `180 steps (4 jobs)` for each of them."""
    counts = Counter((budget.kind, budget.value) for budget in budgets)
    for (kind, value), count in counts.items():
        jobs = "each" if len(counts) == 1 else f"({count} jobs)"
        yield f"{value:,.12g} {UNITS[kind]} {jobs}"


def _forecast_seconds(points: Sequence[Point], parts: Sequence[Part]) -> float | None:
    """The seconds of what is to be trained, by what the jobs that are done have taken; None where none is."""
    works = measure_work([point.budget for point in points])
    work_of = {point.folder: work for point, work in zip(points, works, strict=True)}
    costs = []
    for point in points:
        cost = read_cost(point.folder, work_of[point.folder]) if point.is_done else None
        if cost is not None:
            costs.append(cost)
    work_left = sum(work_of[part.point.folder] * part.share for part in parts)
    return estimate_seconds(costs, len(parts), work_left) if costs else None


def list_jobs(points: Sequence[Point], parts: Sequence[Part]) -> Iterator[str]:
    """Yield a line for each job of a plan: whether it is done, its settings, and its folder."""
    waiting = {point.folder for point in list_waiting(points, parts)}
    for number, point in enumerate(points, 1):
        state = "to run" if point.folder in waiting else "done"
        own = [word for word in point.overrides if not word.startswith("dry_run=")]
        settings = " ".join(mask_secrets(own))
        yield f"[{number}/{len(points)}] {state}: {settings}  {point.folder}"
