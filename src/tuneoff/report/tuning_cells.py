"""Cells on tuning: which rates a method's tuning tried, and what it took."""

from tuneoff.report.cells import MISSING, Cell, format_count, format_figure, format_rate
from tuneoff.report.records import as_number
from tuneoff.report.rows import Row


def rates_cell(row: Row) -> Cell:
    """How many rates the tuning tried, and between which."""
    space = row.tuning.get("space")
    listed = space.get("lr") if isinstance(space, dict) else None
    numbers = [as_number(item) for item in listed] if isinstance(listed, list) else []
    rates = [rate for rate in numbers if rate is not None]
    if not rates:
        return Cell(MISSING, figures={"": ""})
    text = f"{len(rates)} in [{format_rate(min(rates))}, {format_rate(max(rates))}]"
    listing = " ".join(f"{rate:g}" for rate in rates)
    return Cell(text, len(rates), figures={"": listing})


def tuning_cost_cell(row: Row) -> Cell:
    """What the tuning of a row's method took in all."""
    cost = row.tuning.get("method_cost")
    if not isinstance(cost, dict):
        cost = {}
    jobs = as_number(cost.get("jobs"))
    tokens = as_number(cost.get("tokens"))
    seconds = as_number(cost.get("seconds"))
    words = []
    if jobs:
        words.append(f"{format_figure(jobs, '.0f')} jobs")
    if tokens:
        words.append(f"{format_count(tokens)} tokens")
    if seconds:
        words.append(f"{format_figure(seconds, ',.0f')} s")
    text = ", ".join(words) or MISSING
    return Cell(text, seconds, figures={"jobs": jobs, "tokens": tokens, "seconds": seconds})
