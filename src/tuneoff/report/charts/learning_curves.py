"""Charts of learning curves: loss by step, by token and by second."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import numpy as np

from tuneoff.record import FAMILIES
from tuneoff.report.charts.geometry import Axis
from tuneoff.report.charts.labels import draw_ends, label_ends
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
    choose_dash,
    inline_data,
    make_chart,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.records import Curve
from tuneoff.report.rows import Row

POINTS = 100  # a learning curve's resolution
SMOOTH = 8  # a moving mean over training losses takes this part of a curve
MOST_LINES = 45  # more cannot be told apart
MOST_TOGETHER = 15  # in one panel; more have one for each family
PANEL_HEIGHT = 90
HEIGHT_OF_LABEL = 13  # at a line's end; a chart of many lines is higher
LEAST_EVALUATIONS = 3  # of each run, for curves of the validation loss
# The columns of `Curve.train` in their order: the unit, the axis' title, and how a tick is written.
AXES = (
    ("step", "Optimizer steps", ",~g"),
    ("token", "Tokens seen (non-padding)", "~s"),
    ("second", "Training time (s)", ",~g"),
)
LOSS = 3  # the column of `Curve.train` after these
Array = np.ndarray
Line = list[Point]


def chart_learning_curves(comparison: Comparison) -> Iterator[Chart]:
    """Yield loss by step, by token and by second. Validation where every run has three evaluations, else training."""
    rows = comparison.best_rows[:MOST_LINES]
    curves = [curve for row in rows for curve in _finished_curves(row)]
    validated = bool(curves) and all(len(curve.validation) >= LEAST_EVALUATIONS for curve in curves)
    loss = "Validation loss" if validated else "Training loss"
    smoothed = "" if validated else "moving mean, "
    best = (
        ""
        if len(comparison.rows) == len(comparison.methods)
        else "; each method at its best setting"
    )
    for column, (unit, axis_title, tick_format) in enumerate(AXES):
        lines = []
        for row in rows:
            line = _average_curves(row, column, validated)
            if len(line) > 1 and line[-1]["x"] > 0:
                lines.append(line)
        if not lines:
            continue
        longest = max(line[-1]["x"] for line in lines)
        x = alt.X(
            "x:Q",
            title=axis_title,
            scale=alt.Scale(domain=[0, longest]),
            # An axis' own format rounds.
            axis=alt.Axis(tickCount=5, labelExpr=f"format(datum.value, '{tick_format}')"),
        )
        y_title = loss if validated else f"{loss}, smoothed"
        beyond = describe_pulled([line[-1] for line in lines], lower_is_better=True)
        title = (
            f"{loss} by {unit}, {smoothed}mean over seeds; the steep start is cut off{best}{beyond}"
        )
        figure = _draw_curves(lines, x, y_title)
        yield make_chart(f"curve_{unit}", title, figure)


def _finished_curves(row: Row) -> list[Curve]:
    return [run.curve for run in row.finished.values() if run.curve is not None]


def _draw_curves(lines: list[Line], x: alt.X, loss: str) -> Figure:
    ends = pull_in([line[-1] for line in lines], lower_is_better=True)
    # The first tenth falls so far that nothing else could be told apart beside it.
    late = max(end["x"] for end in ends) / 10
    late_losses = []
    for line, end in zip(lines, ends, strict=True):
        if end["y"] == end["value"]:
            late_losses += [point["y"] for point in line if point["x"] >= late]
    low, top = axis_range(late_losses)
    points = []
    for line in lines:
        points += _cut_above(top, line)
    for end in ends:
        if end["y"] != end["value"]:
            end["y"] = top
    lowest = min([low, *(point["y"] for point in points)])
    y = alt.Y(
        "y:Q",
        title=f"{loss} (nats per token)",
        scale=alt.Scale(zero=False, domain=[lowest, top], nice=False),
    )
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("x:Q", format=",.4g"),
        alt.Tooltip("y:Q", title="loss", format=".4f"),
    ]
    return draw_labelled_lines(ends, points, x, y, tips)


def draw_labelled_lines(
    ends: Sequence[Point],
    points: Sequence[Point],
    x: alt.X,
    y: alt.Y,
    tips: list,
) -> Figure:
    """A line for each method with its name at its end; many lines in a panel for each family.

    Args:
        ends: where each line's name stands.
        points: what is drawn of the lines.
        x: the axis to the right, of all panels.
        y: the axis upward, of all panels.
        tips: what a pointer at a line is shown.
    """
    _, widest = label_ends(ends, Axis([0, 1], 1))
    # The labels stand right of the plot, which leaves them room in the column.
    width = WIDTH - widest
    # Of all lines, since panels share the scale.
    look = {"strokeDash": dash_by_method(ends), "tooltip": tips}
    if len(ends) <= MOST_TOGETHER:
        style = FamilyStyle(points)
        height = max(HEIGHT, HEIGHT_OF_LABEL * len(ends))
        return _draw_panel(ends, points, x, y, style, look, (width, height))
    style = FamilyStyle(ends, has_legend=False)
    panels = []
    for family in style.present:
        own_ends = [end for end in ends if end["family"] == family]
        own_points = [point for point in points if point["family"] == family]
        height = max(PANEL_HEIGHT, HEIGHT_OF_LABEL * len(own_ends))
        # Its axes have titles once for all: on top, and under the last.
        own_x = x if family == style.present[-1] else _without_title(x)
        own_y = _without_title(y)
        panel = _draw_panel(own_ends, own_points, own_x, own_y, style, look, (width, height))
        panels.append(panel.properties(title=_small_title(FAMILIES[family])))
    title = _small_title(y["title"])
    return alt.vconcat(*panels, spacing=4, title=title)


def _without_title(axis: Any) -> Any:
    untitled = axis.copy()
    untitled["title"] = None
    return untitled


def _small_title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=FONT, fontWeight="normal", offset=4)


def _draw_panel(
    ends: Sequence[Point],
    points: Sequence[Point],
    x: alt.X,
    y: alt.Y,
    style: FamilyStyle,
    look: dict[str, Any],
    size: tuple[float, float],
) -> Figure:
    """The lines of all methods or of a family, on axes that may be those of others too."""
    width, height = size
    labels, _ = label_ends(ends, Axis(y["scale"]["domain"], height, upward=True))
    curves = alt.Chart(inline_data(points)).mark_line(strokeWidth=1.6)
    return alt.layer(
        curves.encode(
            x=x,
            y=y,
            color=style.colour,
            detail=alt.Detail("method:N"),
            **look,
        ),
        *draw_ends(labels, x, y, style, width),
    ).properties(width=width, height=height)


def dash_by_method(points: Sequence[Point]) -> alt.StrokeDash:
    """A dash for each method, so that lines of one family can be followed where they cross."""
    methods = sorted({point["method"] for point in points})
    scale = alt.Scale(domain=methods, range=[choose_dash(method) for method in methods])
    return alt.StrokeDash("method:N", scale=scale, legend=None)


def _cut_above(top: float, line: Line) -> Line:
    """The line from where it comes below `top` for good: a mark that is clipped takes ten times as long to render."""
    first = 0  # point below `top`
    for index, point in enumerate(line):
        if point["y"] > top:
            first = index + 1
    if not 0 < first < len(line):
        return line[first:]
    above = line[first - 1]
    below = line[first]
    width = below["x"] - above["x"]
    height = above["y"] - below["y"]
    x = above["x"] + width * (above["y"] - top) / height
    crossing = {**below, "x": x, "y": top}
    return [crossing, *line[first:]]


def _average_curves(row: Row, column: int, validated: bool) -> Line:
    """The mean over seeds on a common grid that ends where the first seed ends."""
    curves = []
    for curve in _finished_curves(row):
        if len(curve.train) >= 2:
            curves.append(_follow_axis(curve, column, validated))
    if not curves:
        return []
    if validated and column == 0:
        grid = curves[0][0]
    else:
        start = max(x[0] for x, _ in curves)
        end = min(x[-1] for x, _ in curves)
        grid = np.linspace(start, end, POINTS)
    on_grid = [np.interp(grid, x, loss) for x, loss in curves]
    mean_loss = np.mean(on_grid, axis=0)
    line = []
    for x, loss in zip(grid, mean_loss, strict=True):
        point = {
            "method": row.method,
            "family": row.family,
            "label": row.title,
            "x": float(f"{x:.6g}"),
            "y": round(float(loss), 5),
        }
        line.append(point)
    return line


def _follow_axis(curve: Curve, column: int, validated: bool) -> tuple[Array, Array]:
    """A curve's places on an axis, and its losses there, both (points,): of evaluations, or smoothed ones of steps."""
    if validated:
        steps, losses = curve.validation.T
        # At step 0 no token was seen and no second spent.
        scale = np.vstack([np.zeros(4), curve.train])
        return np.interp(steps, scale[:, 0], scale[:, column]), losses
    kernel = np.ones(max(1, len(curve.train) // SMOOTH))
    counts = np.convolve(np.ones(len(curve.train)), kernel, "same")
    sums = np.convolve(curve.train[:, LOSS], kernel, "same")
    return curve.train[:, column], sums / counts
