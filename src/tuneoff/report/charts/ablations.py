"""Charts of ablations: a quality by each numeric setting that varies within a method."""

from collections.abc import Iterator, Sequence

import altair as alt

from tuneoff.report.charts.geometry import Axis
from tuneoff.report.charts.labels import draw_ends, label_ends
from tuneoff.report.charts.style import (
    HEIGHT,
    WIDTH,
    Chart,
    FamilyStyle,
    Figure,
    Point,
    axis_range,
    file_name,
    inline_data,
    interval_ends,
    keep_drawable,
    make_chart,
    quality_axis,
    quality_range,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.qualities import Quality
from tuneoff.report.records import LARGEST_DRAWN, as_number
from tuneoff.report.rows import LEARNING_RATE, show_setting, varied_keys

MOST_LINES = 21  # of a method; more cannot be told apart
MOST_TICKS = 12


def chart_ablations(comparison: Comparison) -> Iterator[Chart]:
    """Yield a chart for each numeric setting, other than the learning rate, that varies within a method."""
    if not comparison.qualities:
        return
    quality = comparison.qualities[0]
    keys = {key for row in comparison.rows for key in row.setting}
    for key in sorted(keys - {LEARNING_RATE}):
        points = []
        for method in comparison.methods:
            points += _make_points(comparison, method, key, quality)
        if points:
            figure = _draw_ablation(points, key, quality)
            yield make_chart(f"ablation_{file_name(key)}", f"{quality.heading} by {key}", figure)


def _make_points(
    comparison: Comparison,
    method: str,
    key: str,
    quality: Quality,
) -> list[Point]:
    """Points of the lines of one method: rows that differ in `key` alone belong to one line."""
    rows = []
    for row in comparison.rows:
        if row.method == method and row.values_by_seed(quality.path):
            rows.append(row)
    varied = varied_keys(rows)
    if key not in varied:
        return []
    varied.remove(key)
    lines: dict[str, list[Point]] = {}
    for row in rows:
        x = as_number(row.setting.get(key))
        estimate = row.estimate(quality.path)
        if x is not None and estimate is not None:
            others = ", ".join(f"{other}={show_setting(row, other)}" for other in varied)
            point = {
                "method": method,
                "family": row.family,
                "label": ", ".join(filter(None, [row.title, others])),
                "name": row.name,
                "others": others,
                "x": x,
                "y": estimate.mean,
                **interval_ends("y", estimate.mean, estimate.half),
            }
            if keep_drawable([point]):
                lines.setdefault(others, []).append(point)
    drawn = [line for line in lines.values() if _has_length(line)]
    return [point for line in drawn[:MOST_LINES] for point in line]


def _has_length(line: list[Point]) -> bool:
    return len({point["x"] for point in line}) > 1


def _draw_ablation(points: list[Point], key: str, quality: Quality) -> Figure:
    ticks = sorted({point["x"] for point in points})
    log = ticks[0] > 1 / LARGEST_DRAWN and ticks[-1] >= 8 * ticks[0]
    _spread_lines(points, log, ticks[-1] - ticks[0])
    kind = {"type": "log"} if log else {"zero": False}
    domain = axis_range([point["drawn"] for point in points], log_factor=1.3 if log else 0)
    x = alt.X(
        "drawn:Q",
        title=key,
        scale=alt.Scale(domain=domain, **kind),
        axis=alt.Axis(values=ticks[:MOST_TICKS], labelExpr="'' + datum.value"),
    )
    y = quality_axis(quality, points)
    style = FamilyStyle(points)
    y_axis = Axis(quality_range(points), HEIGHT, upward=True)
    ends, widest = label_ends(_find_ends(points), y_axis)
    width = WIDTH - widest
    dash = alt.StrokeDash("others:N", sort=[point["others"] for point in points], legend=None)
    tips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("x:Q", title=key),
        alt.Tooltip("y:Q", title=quality.title, format=".4f"),
    ]
    base = alt.Chart(inline_data(points)).encode(color=style.colour)
    line = base.mark_line(strokeWidth=1.5)
    interval = base.mark_rule(strokeWidth=1.2)
    mark = base.mark_point(filled=True, size=40, opacity=1)
    details = [alt.Detail("method:N"), alt.Detail("others:N")]
    return alt.layer(
        line.encode(x=x, y=y, detail=details, strokeDash=dash),
        interval.encode(
            x=x,
            y=alt.Y("y_low:Q"),
            y2=alt.Y2("y_high:Q"),
        ),
        mark.encode(x=x, y=y, tooltip=tips),
        *draw_ends(ends, x, y, style, width),
    ).properties(width=width, height=HEIGHT)


def _find_ends(points: Sequence[Point]) -> list[Point]:
    """The last point of each line, where its label leads to."""
    ends: dict[tuple[str, str], Point] = {}
    for point in points:
        line = (point["method"], point["others"])
        if line not in ends or point["x"] > ends[line]["x"]:
            ends[line] = point
    return [{**end, "x": end["drawn"]} for end in ends.values()]


def _spread_lines(points: list[Point], log: bool, span: float) -> None:
    """Move lines a little sideways, so that their intervals do not lie on each other; ticks and tips stay exact."""
    lines = list(dict.fromkeys((point["method"], point["others"]) for point in points))
    middle = (len(lines) - 1) / 2
    for point in points:
        shift = lines.index((point["method"], point["others"])) - middle
        if log:
            point["drawn"] = point["x"] * 1.03**shift
        else:
            point["drawn"] = point["x"] + 0.012 * span * shift
