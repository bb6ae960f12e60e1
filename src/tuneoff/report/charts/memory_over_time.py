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
    FamilyStyle,
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
    curves = [run.curve.memory for run in row.finished.values() if run.curve is not None]
    curves = [curve for curve in curves if len(curve) >= LEAST_POINTS]
    if not curves:
        return []
    start = max(curve[0, 0] for curve in curves)
    end = min(curve[-1, 0] for curve in curves)
    if end <= start:
        return []
    grid = np.linspace(start, end, POINTS)
    on_grid = [np.interp(grid, curve[:, 0], curve[:, 1]) for curve in curves]
    line = []
    for step, gib in zip(grid, np.mean(on_grid, axis=0), strict=True):
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
    style = FamilyStyle(points)
    longest = max(line[-1]["x"] for line in lines)
    x = alt.X("x:Q", title="Optimizer steps", scale=alt.Scale(domain=[0, longest]))
    scale = alt.Scale(zero=False, domain=ends_of_axis)
    y = alt.Y("y:Q", title="Memory in use (GiB)", scale=scale)
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("x:Q", title="step", format=",.0f"),
        alt.Tooltip("y:Q", title="GiB", format=".4f"),
    ]
    return draw_labelled_lines(lines, points, x, y, ends_of_axis, style, tips)
