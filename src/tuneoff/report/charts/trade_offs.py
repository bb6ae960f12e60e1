"""Charts of a quality against what it costs, in memory and in speed, with the Pareto front."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import altair as alt

from tuneoff.report import stats
from tuneoff.report.charts.geometry import Axis, Box
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
    file_name,
    inline_data,
    interval_ends,
    keep_drawable,
    make_chart,
    quality_axis,
    quality_range,
    style_figure,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.qualities import Quality
from tuneoff.report.rows import Row
from tuneoff.report.serving import DECODING, saved_mib
from tuneoff.report.text import cut_name

# The page's first chart: as wide as a page, with larger type.
WIDE = "quality_memory_wide"
WIDE_WIDTH = 860
WIDE_HEIGHT = 400
WIDE_FONT = 14
HEIGHT_OF_LABEL = 15  # a chart with many labels is higher
MOST_LABELS = 60
# Costs further apart stand on a logarithmic axis, such as megabytes of an adapter and of all weights.
LARGEST_LINEAR_RATIO = 50
LOG_MARGIN = 1.5


@dataclass(frozen=True)
class Size:
    """How large a chart is drawn, in pixels."""

    width: float
    height: float
    font: float


@dataclass(frozen=True)
class Cost:
    """What a quality is set against."""

    name: str
    title: str
    of_row: Callable[[Row], tuple[float, float | None] | None]  # mean and half interval
    lower_is_better: bool


def chart_trade_offs(comparison: Comparison) -> Iterator[Chart]:
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
                beyond = describe_pulled(points, quality.lower_is_better)
                title = f"{quality.heading} against {cost.name}; dashed: the Pareto front of the means{tuned}{beyond}"
                size = Size(WIDTH, max(HEIGHT, HEIGHT_OF_LABEL * len(points)), FONT)
                figure = draw_trade_off(points, quality, cost, size)
                yield make_chart(f"quality_{cost.name}{suffix}", title, figure)


def chart_widely(comparison: Comparison) -> Chart | None:
    """Return the first quality against memory as wide as a page; None where fewer than two rows have both."""
    if not comparison.qualities:
        return None
    quality = comparison.qualities[0]
    cost = _list_costs(comparison)[0]
    points = keep_drawable(_make_points(comparison.tuned_rows, quality, cost))
    if len(points) < 2:
        return None
    size = Size(WIDE_WIDTH, max(WIDE_HEIGHT, HEIGHT_OF_LABEL * len(points)), WIDE_FONT)
    figure = draw_trade_off(points, quality, cost, size)
    beyond = describe_pulled(points, quality.lower_is_better)
    title = f"{quality.heading} against peak memory, with 95 % intervals over seeds; dashed: the Pareto front{beyond}"
    return Chart(WIDE, title, style_figure(figure, WIDE_FONT))


def _list_costs(comparison: Comparison) -> list[Cost]:
    measures = [run.get("memory.measure") for run in comparison.runs]
    measure = next((f", {cut_name(str(name))}" for name in measures if name), "")
    return [
        Cost("memory", f"Peak memory while training (GiB{measure})", _peak_of_row, True),
        Cost("speed", "Training speed (tokens/s)", _speed_of_row, False),
        Cost("saved", "Saved (MiB)", _saved_size_of_row, True),
        Cost("decoding", "Decoding speed, not merged (tokens/s)", _decoding_of_row, False),
    ]


def _peak_of_row(row: Row) -> tuple[float, None] | None:
    return None if row.train_peak is None else (row.train_peak, None)


def _speed_of_row(row: Row) -> tuple[float, float | None] | None:
    speed = row.estimate("throughput.tokens_per_second")
    return (speed.mean, speed.half) if speed else None


def _saved_size_of_row(row: Row) -> tuple[float, None] | None:
    size = saved_mib(row)
    return None if size is None else (size, None)


def _decoding_of_row(row: Row) -> tuple[float, float | None] | None:
    speed = row.estimate(DECODING)
    return (speed.mean, speed.half) if speed else None


def _make_points(rows: Sequence[Row], quality: Quality, cost: Cost) -> list[Point]:
    """A point for each row that has both figures."""
    points = []
    counts = Counter(row.method for row in rows)
    for row in rows:
        estimate = row.estimate(quality.path)
        spent = cost.of_row(row)
        if estimate is None or spent is None:
            continue
        point = {
            "method": row.method,
            "family": row.family,
            "label": row.title if counts[row.method] == 1 else row.name,
            "name": row.name,
            "x": spent[0],
            "y": estimate.mean,
            "seeds": estimate.n,
            **interval_ends("y", estimate.mean, estimate.half),
            **interval_ends("x", *spent),
        }
        points.append(point)
    return points


def draw_trade_off(
    points: list[Point],
    quality: Quality,
    cost: Cost,
    size: Size,
) -> Figure:
    """Return the chart of points with their intervals, their names beside them, and the Pareto front of the means.

    Points far beyond the others are drawn at the edge, with their values in their names.
    """
    points = pull_in(points, quality.lower_is_better)
    front = _find_front(points, quality, cost)
    costs = [point[key] for point in points for key in ("x", "x_low", "x_high")]
    logarithmic = min(costs) > 0 and max(costs) / min(costs) > LARGEST_LINEAR_RATIO
    domain = axis_range(costs, LOG_MARGIN if logarithmic else 0)
    x = _make_cost_axis(cost, domain, logarithmic)
    y = quality_axis(quality, points)
    style = FamilyStyle(points)
    base = alt.Chart(inline_data(points)).encode(color=style.colour)
    tips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("value:Q", title=quality.title, format=".4f"),
        alt.Tooltip("x:Q", title=cost.title, format=",.4g"),
        alt.Tooltip("seeds:Q"),
    ]
    # Hollow, so that none hides another.
    marks = base.mark_point(filled=False, size=70, opacity=1, strokeWidth=2)
    x_axis = Axis(domain, size.width, logarithmic=logarithmic)
    y_axis = Axis(quality_range(points), size.height, upward=True)
    order = alt.Order("x:Q")
    front_line = _draw_front(front, cost).encode(x=x, y=y, order=order)
    lines = _front_boxes(front, x_axis, y_axis, cost)
    labels = place_labels(points[:MOST_LABELS], x_axis, y_axis, size.font, lines)
    return alt.layer(
        front_line,
        *draw_intervals(base, x, y),
        marks.encode(x=x, y=y, shape=style.shape, tooltip=tips),
        *draw_labels(labels, x, y, style, size.font),
    ).properties(width=size.width, height=size.height)


def _make_cost_axis(cost: Cost, domain: list[float], logarithmic: bool) -> alt.X:
    """The horizontal axis; not rounded to nice ends, since the labels' places are made for this domain."""
    scale = alt.Scale(zero=False, domain=domain, nice=False)
    axis = alt.Axis(tickCount=5)
    if logarithmic:
        scale = alt.Scale(type="log", domain=domain, nice=False)
        low, high = (math.log10(end) for end in domain)
        powers = range(math.ceil(low), math.floor(high) + 1)
        axis = alt.Axis(values=[10.0**power for power in powers], format="~g")
    return alt.X("x:Q", title=cost.title, scale=scale, axis=axis)


def _find_front(points: list[Point], quality: Quality, cost: Cost) -> list[Point]:
    """The points of the Pareto front, from left to right or right to left."""
    x_sign = 1 if cost.lower_is_better else -1
    y_sign = 1 if quality.lower_is_better else -1
    front = stats.find_pareto_front(
        [(x_sign * point["x"], y_sign * point["value"]) for point in points]
    )
    return [points[index] for index in front]


def _front_boxes(
    front: list[Point],
    x_axis: Axis,
    y_axis: Axis,
    cost: Cost,
) -> list[Box]:
    """Where the front's line runs, for labels to keep away from."""
    boxes = []
    ordered = sorted(front, key=lambda point: point["x"])
    for left, right in pairwise(ordered):
        turn_x = right["x"] if cost.lower_is_better else left["x"]
        level = left["y"] if cost.lower_is_better else right["y"]
        y = y_axis.to_pixels(level)
        begin = x_axis.to_pixels(left["x"])
        end = x_axis.to_pixels(right["x"])
        boxes.append(Box(begin, y - 1, end, y + 1))
        top, bottom = sorted(y_axis.to_pixels(point["y"]) for point in (left, right))
        x = x_axis.to_pixels(turn_x)
        boxes.append(Box(x - 1, top, x + 1, bottom))
    return boxes


def _draw_front(front: list[Point], cost: Cost) -> alt.Chart:
    """The Pareto front as a dashed line of steps."""
    return alt.Chart(inline_data(front)).mark_line(
        color="#888888",
        strokeDash=[3, 3],
        strokeWidth=1.2,
        interpolate="step-after" if cost.lower_is_better else "step-before",
    )
