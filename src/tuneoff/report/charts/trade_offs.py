"""Charts of a quality against what it costs, in memory and in speed, with the Pareto front."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import altair as alt

from tuneoff.report import stats
from tuneoff.report.charts.style import (
    HEIGHT,
    WIDTH,
    Chart,
    Figure,
    MethodStyle,
    Point,
    axis_range,
    file_name,
    inline_data,
    interval_ends,
    keep_drawable,
    make_chart,
    quality_axis,
)
from tuneoff.report.compare import Comparison, Quality
from tuneoff.report.rows import Row
from tuneoff.report.text import cut_name


@dataclass(frozen=True)
class Cost:
    """What a quality is set against."""

    name: str
    title: str
    of_row: Callable[[Row], tuple[float, float | None] | None]  # mean and half interval
    lower_is_better: bool


def chart_trade_offs(comparison: Comparison, methods: Sequence[str]) -> Iterator[Chart]:
    """Yield a chart for each quality and cost, where two rows or more have both."""
    rows = comparison.tuned_rows
    finished = [row for row in comparison.rows if row.finished]
    tuned = "; each setting at its best rate" if len(rows) < len(finished) else ""
    for quality in comparison.qualities:
        suffix = ""
        if quality is not comparison.qualities[0]:
            suffix = "_" + file_name(quality.metric)
        for cost in _list_costs(comparison):
            points = keep_drawable(_make_points(rows, quality, cost))
            if len(points) > 1:
                title = f"{quality.heading} against {cost.name}; dashed: the Pareto front of the means{tuned}"
                figure = _draw_trade_off(points, quality, cost, methods)
                yield make_chart(f"quality_{cost.name}{suffix}", title, figure)


def _list_costs(comparison: Comparison) -> list[Cost]:
    measures = [run.get("memory.measure") for run in comparison.runs]
    measure = next((f", {cut_name(str(name))}" for name in measures if name), "")
    return [
        Cost("memory", f"Peak memory while training (GiB{measure})", _peak_of_row, True),
        Cost("speed", "Training speed (tokens/s)", _speed_of_row, False),
    ]


def _peak_of_row(row: Row) -> tuple[float, None] | None:
    return None if row.train_peak is None else (row.train_peak, None)


def _speed_of_row(row: Row) -> tuple[float, float | None] | None:
    speed = row.estimate("throughput.tokens_per_second")
    return (speed.mean, speed.half) if speed else None


def _make_points(rows: Sequence[Row], quality: Quality, cost: Cost) -> list[Point]:
    """A point for each row that has both figures."""
    points = []
    for row in rows:
        estimate = row.estimate(quality.path)
        spent = cost.of_row(row)
        if estimate is None or spent is None:
            continue
        point = {
            "method": row.method,
            "name": row.name,
            "x": spent[0],
            "y": estimate.mean,
            "seeds": estimate.n,
            **interval_ends("y", estimate.mean, estimate.half),
            **interval_ends("x", *spent),
        }
        points.append(point)
    return points


def _draw_trade_off(
    points: list[Point], quality: Quality, cost: Cost, methods: Sequence[str]
) -> Figure:
    domain = axis_range([point[key] for point in points for key in ("x", "x_low", "x_high")])
    x = alt.X(
        "x:Q",
        title=cost.title,
        scale=alt.Scale(zero=False, domain=domain),
        axis=alt.Axis(tickCount=4),
    )
    y = quality_axis(quality, points)
    style = MethodStyle(methods, points)
    base = alt.Chart(inline_data(points)).encode(color=style.colour)
    tips = [
        "name:N",
        alt.Tooltip("y:Q", title=quality.title, format=".4f"),
        alt.Tooltip("x:Q", title=cost.title, format=",.4g"),
        "seeds:Q",
    ]
    # Hollow, so that none hides another.
    marks = base.mark_point(filled=False, size=70, opacity=1, strokeWidth=2)
    return alt.layer(
        _draw_front(points, quality, cost).encode(x=x, y=y, order="x:Q"),
        base.mark_rule(strokeWidth=1.2).encode(x=x, y="y_low:Q", y2="y_high:Q"),
        base.mark_rule(strokeWidth=1.2).encode(x="x_low:Q", x2="x_high:Q", y=y),
        marks.encode(x=x, y=y, shape=style.shape, tooltip=tips),
    ).properties(width=WIDTH, height=HEIGHT)


def _draw_front(points: list[Point], quality: Quality, cost: Cost) -> alt.Chart:
    """The Pareto front as a dashed line of steps."""
    x_sign = 1 if cost.lower_is_better else -1
    y_sign = 1 if quality.lower_is_better else -1
    front = stats.find_pareto_front(
        [(x_sign * point["x"], y_sign * point["y"]) for point in points]
    )
    return alt.Chart(inline_data([points[index] for index in front])).mark_line(
        color="#888888",
        strokeDash=[3, 3],
        strokeWidth=1.2,
        interpolate="step-after" if cost.lower_is_better else "step-before",
    )
