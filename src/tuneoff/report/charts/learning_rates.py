"""Chart of loss against learning rate, a panel a method: which rates were tried, and which of them is best."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from tuneoff.report.charts.style import (
    Chart,
    FamilyStyle,
    Figure,
    Point,
    axis_range,
    inline_data,
    interval_ends,
    keep_drawable,
    make_chart,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.records import LARGEST_DRAWN
from tuneoff.report.rows import VALIDATION_LOSS, Row
from tuneoff.report.tuned_order import measure_tuned_losses, order_as_tuned

TRIED = "tried"
BEST = "best"
EDGE = "best, on the edge of its grid"
PARTLY = "a seed came to no loss: not chosen"
ABOVE = "loss above the dashed line"
LOST = "no seed finished"
# What a rate came to, and its mark: a dot, a large dot, a square, a diamond, a triangle, a cross.
OUTCOMES = {
    TRIED: "M-.45,0A.45,.45,0,1,1,.45,0A.45,.45,0,1,1,-.45,0",
    BEST: "circle",
    EDGE: "square",
    PARTLY: "diamond",
    ABOVE: "triangle-up",
    LOST: "M-.9,-.9L.9,.9M-.9,.9L.9,-.9",
}
TITLE = "Loss against learning rate, a panel a method; each mark is a rate that was tried"
MOST_TICKS = 5
LIMIT_LINE: dict[str, Any] = {"color": "#777", "strokeWidth": 0.8, "strokeDash": [2, 2]}
MARK: dict[str, Any] = {"filled": True, "size": 80, "opacity": 1, "strokeWidth": 1.4}
STRIP = 0.28  # of the chart's range, above its line: for what has no place on the axis


def chart_learning_rates(comparison: Comparison) -> Iterator[Chart]:
    """Yield the chart of validation loss, because a rate is chosen on it, by rate.

    Where several settings were tried at a rate, the best of them stands for it.
    """
    by_method = [_make_points(comparison, method) for method in comparison.methods]
    # A method of which no rate gave a loss has nothing to show in a panel.
    lost = [points[0]["panel"] for points in by_method if points and not _have_loss(points)]
    by_method = [points for points in by_method if _have_loss(points)]
    if not by_method:
        return
    everything = [point for points in by_method for point in points]
    low, top = axis_range(_near_best(by_method))
    low = min(low, *(point["y_low"] for point in everything if point["y"] is not None))
    strip = top + STRIP * (top - low)
    above = (top + strip) / 2
    points = []
    for panel in by_method:
        placed = [_place_in_chart(point, top, above) for point in panel]
        points += _join_to_line(placed)
    title = f"{TITLE}; no seed finished at any rate of {', '.join(lost)}" if lost else TITLE
    yield make_chart("learning_rate", title, _draw_rates(points, [low, top, strip]))


def _make_points(comparison: Comparison, method: str) -> list[Point]:
    """A point for each rate of a method, in order; none where fewer than two were tried."""
    by_rate: dict[float, list[Row]] = {}
    rows = [row for row in comparison.rows if row.method == method and row.runs]
    tried = order_as_tuned([row for row in rows if _is_drawable_rate(row.rate or 0.0)])
    for row in tried:
        by_rate.setdefault(row.rate or 0.0, []).append(row)
    if len(by_rate) < 2:
        return []
    points = [_make_point(method, rate, by_rate[rate]) for rate in sorted(by_rate)]
    if math.isfinite(measure_tuned_losses(tried)[0]):
        best = next(point for point in points if point["x"] == tried[0].rate)
        if best["y"] is not None:
            best["outcome"] = EDGE if best in (points[0], points[-1]) else BEST
    return points


def _have_loss(points: Sequence[Point]) -> bool:
    return any(point["y"] is not None for point in points)


def _is_drawable_rate(rate: float) -> bool:
    """Whether a rate has a place on a logarithmic axis beside others."""
    return 1 / LARGEST_DRAWN < rate < LARGEST_DRAWN


def _make_point(method: str, rate: float, rows: Sequence[Row]) -> Point:
    """The first of a rate's rows that has a loss to draw; they come as a tuning orders them."""
    drawable = []
    lost = LOST
    for row in rows:
        loss = row.estimate(VALIDATION_LOSS)
        if loss is None:
            continue
        if abs(loss.mean) < LARGEST_DRAWN:
            drawable.append((loss, row))
        else:
            lost = ABOVE
    point: Point = {
        "method": method,
        "panel": rows[0].title,
        "family": rows[0].family,
        "x": rate,
    }
    if not drawable:
        first = rows[0]
        return {**point, "y": None, "outcome": lost, "name": first.name, "runs": first.outcome}
    loss, row = drawable[0]
    ends = interval_ends("y", loss.mean, loss.half)
    if not keep_drawable([ends]):
        ends = interval_ends("y", loss.mean, None)
    point["y"] = loss.mean
    point["outcome"] = PARTLY if row.lost_seeds else TRIED
    point["name"] = row.name
    point["runs"] = row.outcome
    return point | ends


def _near_best(by_method: Sequence[list[Point]]) -> list[float]:
    """Each method's best loss and those beside it: rates that diverge must not flatten what is to be seen."""
    losses = []
    for points in by_method:
        heights = [math.inf if point["y"] is None else point["y"] for point in points]
        best = heights.index(min(heights))
        for index, point in enumerate(points):
            if point["outcome"] in (BEST, EDGE):
                best = index
        for point in points[max(best - 1, 0) : best + 2]:
            if point["y"] is not None:
                losses.append(point["y"])
    return losses


def _place_in_chart(point: Point, top: float, above: float) -> Point:
    """The point as it is drawn: a mark of what is higher than `top`, or has no loss, stands `above` the line there."""
    if point["y"] is None:
        return {**point, "shown": above, "y_low": above, "y_high": above}
    drawn = {
        "shown": point["y"],
        "y_low": min(point["y_low"], top),
        "y_high": min(point["y_high"], top),
    }
    if point["y"] > top:
        drawn["shown"] = above
        drawn["outcome"] = ABOVE
    return {**point, **drawn}


def _join_to_line(points: Sequence[Point]) -> list[Point]:
    """The points of a panel with `line`, where the line through them goes: to a mark above from its neighbour alone."""
    joined = []
    for index, point in enumerate(points):
        beside = points[max(index - 1, 0) : index + 2]
        is_joined = any(other["outcome"] not in (ABOVE, LOST) for other in beside)
        joined.append({**point, "line": point["shown"] if is_joined else None})
    return joined


def _draw_rates(points: list[Point], heights: Sequence[float]) -> Figure:
    """A panel a method; `heights` are the lowest loss, the highest on the axis, and the end of the strip above."""
    low, top, strip = heights
    rates = [point["x"] for point in points]
    x = alt.X(
        "x:Q",
        title="learning rate",
        axis=alt.Axis(values=_list_decades(rates), format="~e"),
        scale=alt.Scale(type="log", domain=axis_range(rates, log_factor=1.8)),
    )
    scale = alt.Scale(zero=False, domain=[low, strip])
    # Ticks end below the strip, where a height is no loss.
    ticks = alt.Axis(values=_list_ticks(low, top))
    y = alt.Y("shown:Q", title="loss (nats/token)", axis=ticks, scale=scale)
    style = FamilyStyle(points)
    colour = alt.Color("family:N", scale=style.colours, legend=None)
    finished = alt.Chart().transform_filter(f"datum.outcome !== '{LOST}'").encode(x=x, color=colour)
    on_axis = finished.transform_filter(f"datum.outcome !== '{ABOVE}'")
    limit = alt.Chart().mark_rule(**LIMIT_LINE)
    intervals = on_axis.mark_rule(strokeWidth=1.2)
    layers = alt.layer(
        limit.encode(y=alt.YDatum(top)),
        finished.mark_line(strokeWidth=1.4).encode(y=alt.Y("line:Q", scale=scale)),
        intervals.encode(y=alt.Y("y_low:Q"), y2=alt.Y2("y_high:Q")),
        _draw_marks(points, style).encode(x=x, y=y, color=colour),
    )
    header = alt.Header(labelFontSize=11, labelPadding=2)
    panels = list(dict.fromkeys(point["panel"] for point in points))
    return layers.properties(width=104, height=96).facet(
        alt.Facet("panel:N", title=None, header=header, sort=panels),
        data=inline_data(points),
        columns=3,
        spacing=8,
    )


def _list_ticks(low: float, top: float) -> list[float]:
    """Round losses between two heights, four or so."""
    step = 10.0 ** math.floor(math.log10((top - low) / 2))
    for factor in (1, 2, 5, 10):
        if (top - low) / (step * factor) <= MOST_TICKS:
            step *= factor
            break
    first = math.ceil(low / step)
    last = math.floor(top / step)
    return [round(count * step, 12) for count in range(first, last + 1)]


def _draw_marks(points: list[Point], style: FamilyStyle) -> alt.Chart:
    """A mark for each rate, by what it came to."""
    outcomes = {point["outcome"] for point in points}
    present = [outcome for outcome in OUTCOMES if outcome in outcomes]
    shapes = alt.Scale(domain=present, range=[OUTCOMES[outcome] for outcome in present])
    legend = alt.Legend(columns=2, symbolFillColor="#555", symbolStrokeColor="#555", labelLimit=220)
    tips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("x:Q", title="learning rate", format="~e"),
        alt.Tooltip("y:Q", title="loss", format=".4f"),
        alt.Tooltip("outcome:N"),
        alt.Tooltip("runs:N"),
    ]
    marks = alt.Chart().mark_point(**MARK)
    return marks.encode(
        stroke=alt.Stroke("family:N", scale=style.colours, legend=None),
        shape=alt.Shape("outcome:N", title=None, scale=shapes, legend=legend),
        tooltip=tips,
    )


def _list_decades(rates: Sequence[float]) -> list[float]:
    """Powers of ten among the rates, or around them."""
    exponents = [math.log10(rate) for rate in rates]
    lowest = math.floor(min(exponents))
    highest = math.ceil(max(exponents))
    return [10.0**power for power in range(lowest, highest + 1)]
