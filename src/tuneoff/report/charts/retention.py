"""Chart of the target against retention: what each method learns, and what it forgets on the way."""

from collections.abc import Iterator

import altair as alt
import numpy as np

from tuneoff.report.charts.geometry import Axis
from tuneoff.report.charts.labels import draw_labels, place_labels
from tuneoff.report.charts.outliers import describe_pulled, pull_in
from tuneoff.report.charts.style import (
    FONT,
    HEIGHT,
    WIDTH,
    Chart,
    FamilyStyle,
    Figure,
    Point,
    axis_range,
    draw_intervals,
    inline_data,
    interval_ends,
    keep_drawable,
    make_chart,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.records import Run
from tuneoff.report.rows import VALIDATION_LOSS, Row

FORGETTING = "metrics.forgetting"
TARGET_TITLE = "Validation loss (nats per token)"
RETENTION_TITLE = "Forgetting: rise of the loss on the second set (nats per token)"
MOST_ROWS = 45  # more cannot be told apart


def chart_retention(comparison: Comparison) -> Iterator[Chart]:
    """Yield the chart where two rows have both figures: the step that counts, and the path to it."""
    ends: list[Point] = []
    paths: list[Point] = []
    for row in comparison.best_rows[:MOST_ROWS]:
        end = _make_end(row)
        if end is not None:
            ends.append(end)
            paths += _make_path(row)
    ends = keep_drawable(ends)
    if len(ends) < 2:
        return
    beyond = describe_pulled(ends, lower_is_better=True)
    title = (
        "Target against retention: each method's path over training (mean over seeds) and the step that counts, "
        f"with 95 % intervals over seeds; best is below, to the left{beyond}"
    )
    ends = pull_in(ends, lower_is_better=True)
    yield make_chart("retention", title, _draw(ends, keep_drawable(paths)))


def _make_end(row: Row) -> Point | None:
    """The losses of the step that a row is judged by; None where it has not both."""
    target = row.estimate(VALIDATION_LOSS)
    forgetting = row.estimate(FORGETTING)
    if target is None or forgetting is None:
        return None
    return {
        "method": row.method,
        "family": row.family,
        "label": row.title,
        "name": row.name,
        "x": forgetting.mean,
        "y": target.mean,
        "seeds": target.n,
        **interval_ends("x", forgetting.mean, forgetting.half),
        **interval_ends("y", target.mean, target.half),
    }


def _make_path(row: Row) -> list[Point]:
    """The mean over seeds at each step that all seeds evaluated both sets at."""
    tables = []
    for run in row.finished.values():
        table = _pair_losses(run)
        if len(table) > 1:
            tables.append(table)
    if not tables:
        return []
    common = set.intersection(*(set(table[:, 0]) for table in tables))
    points = []
    for step in sorted(common):
        at_step = []
        for table in tables:
            steps = table[:, 0]
            at_step.append(table[steps == step][0])
        _, forgetting, target = np.mean(at_step, axis=0)
        point = {
            "name": row.name,
            "family": row.family,
            "step": float(step),
            "x": float(forgetting),
            "y": float(target),
        }
        points.append(point)
    return points


def _pair_losses(run: Run) -> np.ndarray:
    """(evaluations, 3) of step, rise of the second set's loss, and validation loss."""
    if run.curve is None or not len(run.curve.second_set):
        return np.zeros((0, 3))
    steps, second = run.curve.second_set.T
    by_step = dict(run.curve.validation)
    rows = []
    for step, loss in zip(steps, second, strict=True):
        if step in by_step:
            rows.append((step, loss - second[0], by_step[step]))
    return np.array(rows).reshape(-1, 3)


def _draw(ends: list[Point], paths: list[Point]) -> Figure:
    x_domain = axis_range([point[key] for point in ends for key in ("x_low", "x_high")])
    x_domain = axis_range([*x_domain, 0.0])  # where nothing is forgotten
    y_domain = axis_range([point[key] for point in ends for key in ("y_low", "y_high")])
    # The steep start is left out: the ends could not be told apart beside it.
    shown = [point for point in paths if _is_inside(point, x_domain, y_domain)]
    height = max(HEIGHT, 15 * len(ends))
    x_scale = alt.Scale(zero=False, domain=x_domain, nice=False)
    y_scale = alt.Scale(zero=False, domain=y_domain, nice=False)
    x = alt.X("x:Q", title=RETENTION_TITLE, scale=x_scale)
    y = alt.Y("y:Q", title=TARGET_TITLE, scale=y_scale)
    style = FamilyStyle(ends)
    base = alt.Chart(inline_data(ends)).encode(color=style.colour)
    lines = alt.Chart(inline_data(shown))
    lines = lines.mark_line(strokeWidth=1, opacity=0.6, point={"size": 8})
    forgetting = alt.Tooltip("x:Q", format=".4f")
    target = alt.Tooltip("value:Q", title="target", format=".4f")
    tips = [alt.Tooltip("name:N"), forgetting, target, alt.Tooltip("seeds:Q")]
    labels = place_labels(
        ends, Axis(x_domain, WIDTH), Axis(y_domain, height, upward=True), FONT, []
    )
    paths_of_rows = lines.encode(
        x=x,
        y=y,
        color=style.colour,
        detail=alt.Detail("name:N"),
        order=alt.Order("step:Q"),
    )
    return alt.layer(
        paths_of_rows,
        *draw_intervals(base, x, y),
        base.mark_point(filled=False, size=70, opacity=1, strokeWidth=2).encode(
            x=x, y=y, shape=style.shape, tooltip=tips
        ),
        *draw_labels(labels, x, y, style, FONT),
    ).properties(width=WIDTH, height=height)


def _is_inside(point: Point, x_domain: list[float], y_domain: list[float]) -> bool:
    is_within_x = x_domain[0] <= point["x"] <= x_domain[1]
    is_within_y = y_domain[0] <= point["y"] <= y_domain[1]
    return is_within_x and is_within_y
