"""Chart of the memory in use over the steps of training, a line a method."""

from collections.abc import Iterator

import altair as alt
import numpy as np

from tuneoff.report.charts.learning_curves import (
    MOST_LINES,
    POINTS,
    Line,
    draw_labelled_lines,
)
from tuneoff.report.charts.style import (
    Chart,
    Figure,
    axis_range,
    make_chart,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.rows import Row

LEAST_POINTS = 2


def chart_memory_over_time(comparison: Comparison) -> Iterator[Chart]:
    """Yield the memory after each step, the mean over seeds, for each method's best setting."""
    lines = [_average_memory(row) for row in comparison.best_rows[:MOST_LINES]]
    lines = [line for line in lines if line]
    if lines:
        title = "Memory in use after each step, mean over seeds"
        yield make_chart("memory_over_time", title, _draw_lines(lines))


def _average_memory(row: Row) -> Line:
    """The mean over seeds on a common grid of steps that ends where the first seed ends."""
    curves = []
    for run in row.finished.values():
        if run.curve is not None and len(run.curve.memory) >= LEAST_POINTS:
            steps, gib = run.curve.memory.T
            curves.append((steps, gib))
    if not curves:
        return []
    start = max(steps[0] for steps, _ in curves)
    end = min(steps[-1] for steps, _ in curves)
    if end <= start:
        return []
    grid = np.linspace(start, end, POINTS)
    on_grid = [np.interp(grid, steps, gib) for steps, gib in curves]
    mean_gib = np.mean(on_grid, axis=0)
    line = []
    for step, gib in zip(grid, mean_gib, strict=True):
        line.append(
            {
                "method": row.method,
                "family": row.family,
                "label": row.title,
                "x": float(f"{step:.6g}"),
                "y": round(float(gib), 5),
            }
        )
    return line


def _draw_lines(lines: list[Line]) -> Figure:
    points = [point for line in lines for point in line]
    ends_of_axis = axis_range([point["y"] for point in points])
    longest = max(line[-1]["x"] for line in lines)
    x_scale = alt.Scale(domain=[0, longest])
    x = alt.X("x:Q", title="Optimizer steps", scale=x_scale)
    scale = alt.Scale(zero=False, domain=ends_of_axis, nice=False)
    y = alt.Y("y:Q", title="Memory in use (GiB)", scale=scale)
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("x:Q", title="step", format=",.0f"),
        alt.Tooltip("y:Q", title="GiB", format=".4f"),
    ]
    ends = [line[-1] for line in lines]
    return draw_labelled_lines(ends, points, x, y, tips)
