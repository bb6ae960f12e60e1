"""Charts that are lines: learning curves, loss against learning rate, and ablations over a numeric setting."""

import math
from collections.abc import Sequence

import altair as alt
import numpy as np

from tuneoff.report.charts.style import (
    HEIGHT,
    STROKE,
    WIDTH,
    Figure,
    Named,
    Style,
    axis_range,
    ends,
    inline,
    quality_axis,
    slug,
)
from tuneoff.report.compare import Comparison, Quality
from tuneoff.report.records import Run, as_number
from tuneoff.report.rows import RATE, Row

POINTS = 100  # a learning curve's resolution
SMOOTH = 8  # a moving mean over training losses takes this part of a curve
MOST_LINES = 21  # more cannot be told apart
AXES = (
    ("step", "Optimizer steps"),
    ("token", "Tokens seen (non-padding)"),
    ("second", "Training time (s)"),
)


# ---------------------------------------------------------------- learning curves
def curves(made: Comparison, methods: Sequence[str]) -> Named:
    """Loss by step, by token and by second. Validation where every run has three evaluations, else training."""
    rows = made.best_rows[:MOST_LINES]
    found = [run.curve for row in rows for run in row.finished.values() if run.curve is not None]
    validated = bool(found) and all(len(curve.validation) >= 3 for curve in found)
    shown, how = (
        ("Validation loss", "") if validated else ("Training loss, smoothed", "moving mean, ")
    )
    best = (
        "; each method at its best setting"
        if len(made.rows) > len({row.method for row in made.rows})
        else ""
    )
    for column, (unit, title) in enumerate(AXES):
        lines = [line for row in rows if len(line := _mean_curve(row, column, validated)) > 1]
        if lines:
            label = f"format(datum.value, '{'~s' if unit == 'token' else ',~g'}')"  # an axis' own format rounds
            x = alt.X(
                "x:Q",
                title=title,
                scale=alt.Scale(domain=[0, max(line[-1]["x"] for line in lines)]),
                axis=alt.Axis(tickCount=5, labelExpr=label),
            )
            yield (
                f"curve_{unit}",
                f"{shown.partition(',')[0]} by {unit}, {how}mean over seeds; the steep start is "
                f"cut off{best}",
                _curve_chart(lines, x, shown, methods),
            )


def _curve_chart(
    lines: list[list[dict]], x: alt.X, shown: str, methods: Sequence[str]
) -> alt.Chart:
    # The first tenth falls so far that nothing else could be told apart beside it.
    late = max(line[-1]["x"] for line in lines) / 10
    low, top = axis_range([point["y"] for line in lines for point in line if point["x"] >= late])
    points = [point for line in lines for point in _below(top, line)]
    style = Style(methods, {point["method"] for point in points}, lines=True)
    y = alt.Y(
        "y:Q",
        title=f"{shown} (nats per token)",
        scale=alt.Scale(zero=False, domain=[min(low, *(point["y"] for point in points)), top]),
    )
    return (
        alt.Chart(inline(points))
        .mark_line(strokeWidth=1.6)
        .encode(
            x=x,
            y=y,
            color=style.colour,
            strokeDash=style.dash,
            tooltip=[
                "method:N",
                alt.Tooltip("x:Q", format=",.4g"),
                alt.Tooltip("y:Q", title="loss", format=".4f"),
            ],
        )
        .properties(width=WIDTH, height=HEIGHT)
    )


def _below(top: float, line: list[dict]) -> list[dict]:
    """The line from where it comes below `top` for good: a mark that is clipped takes ten times as long to render."""
    after = max((index + 1 for index, point in enumerate(line) if point["y"] > top), default=0)
    if not 0 < after < len(line):
        return line[after:]
    (x0, y0), (x1, y1) = ((point["x"], point["y"]) for point in line[after - 1 : after + 1])
    return [{**line[after], "x": x0 + (x1 - x0) * (y0 - top) / (y0 - y1), "y": top}, *line[after:]]


def _mean_curve(row: Row, column: int, validated: bool) -> list[dict]:
    """The mean over seeds on a common grid that ends where the first seed ends."""
    found = [
        curve
        for run in row.finished.values()
        if (curve := _one_curve(run, column, validated)) is not None
    ]
    if not found:
        return []
    start, end = max(x[0] for x, _ in found), min(x[-1] for x, _ in found)
    grid = found[0][0] if validated and column == 0 else np.linspace(start, end, POINTS)
    mean = np.mean([np.interp(grid, x, y) for x, y in found], axis=0)
    return [
        {"method": row.method, "x": float(f"{x:.6g}"), "y": round(float(y), 5)}
        for x, y in zip(grid, mean, strict=True)
    ]


def _one_curve(run: Run, column: int, validated: bool) -> tuple[np.ndarray, np.ndarray] | None:
    curve = run.curve
    if curve is None or len(curve.train) < 2:
        return None
    if validated:
        steps, losses = curve.validation.T
        scale = np.vstack(
            [np.zeros(4), curve.train]
        )  # at step 0 no token was seen and no second spent
        return np.interp(steps, scale[:, 0], scale[:, column]), losses
    kernel = np.ones(max(1, len(curve.train) // SMOOTH))
    counts = np.convolve(np.ones(len(curve.train)), kernel, "same")
    return curve.train[:, column], np.convolve(curve.train[:, 3], kernel, "same") / counts


# ---------------------------------------------------------------- loss against learning rate
# What a rate came to, and its mark: a dot, a large dot, a square, a triangle, a cross.
OUTCOMES = {
    "tried": "M-.45,0A.45,.45,0,1,1,.45,0A.45,.45,0,1,1,-.45,0",
    "best": "circle",
    "best, on the edge of its grid": "square",
    "loss above the chart": "triangle-up",
    "no seed finished": "M-.9,-.9L.9,.9M-.9,.9L.9,-.9",
}
TRIED, BEST, EDGE, ABOVE, LOST = OUTCOMES


def rates(made: Comparison, methods: Sequence[str]) -> Named:
    """Tuning sensitivity: validation loss, because a rate is chosen on it. Of other settings, the best at each rate."""
    tried = [
        points
        for method in sorted({row.method for row in made.rows})
        if (points := _rate_points(made, method))
    ]
    drawn = [point for points in tried for point in points if point["y"] is not None]
    if drawn:
        low, top = axis_range(_near_the_best(tried))
        low = min(low, min(point["y_low"] for point in drawn))
        edge = top - 0.05 * (top - low)  # so that a mark there is not cut
        shown = [_within(edge, point) for points in tried for point in points]
        yield (
            "learning_rate",
            "Loss against learning rate, a panel a method; each mark is a rate that was tried",
            _rate_chart(shown, [low, top], Style(methods, {point["method"] for point in shown})),
        )


def _near_the_best(tried: Sequence[Sequence[dict]]) -> list[float]:
    """Each method's best loss and those beside it: rates that diverge must not flatten what is to be seen."""
    near = []
    for points in tried:
        place = next(
            (index for index, point in enumerate(points) if point["outcome"] in (BEST, EDGE)), 0
        )
        near += [
            point["y"] for point in points[max(place - 1, 0) : place + 2] if point["y"] is not None
        ]
    return near


def _within(top: float, point: dict) -> dict:
    """The point as it is drawn: what lies above the chart, or has no loss, stands at its upper edge."""
    if point["y"] is None:
        return {**point, "shown": top, "y_low": top, "y_high": top}
    outcome = ABOVE if point["y"] > top else point["outcome"]
    return {
        **point,
        "outcome": outcome,
        **{
            key: min(point[of], top)
            for key, of in (("shown", "y"), ("y_low", "y_low"), ("y_high", "y_high"))
        },
    }


def _rate_chart(points: list[dict], domain: list[float], style: Style) -> Figure:
    x = alt.X(
        "x:Q",
        title="learning rate",
        axis=alt.Axis(values=_decades(points), format="~e"),
        scale=alt.Scale(type="log", domain=axis_range([point["x"] for point in points], log=1.8)),
    )
    y = alt.Y(
        "shown:Q",
        title="loss (nats/token)",
        axis=alt.Axis(tickCount=4),
        scale=alt.Scale(zero=False, domain=domain),
    )
    present = [
        outcome for outcome in OUTCOMES if any(point["outcome"] == outcome for point in points)
    ]
    legend = alt.Legend(columns=2, symbolFillColor="#555", symbolStrokeColor="#555", labelLimit=220)
    shapes = alt.Scale(domain=present, range=[OUTCOMES[outcome] for outcome in present])
    colour = alt.Color("method:N", scale=style.colours, legend=None)
    finished = alt.Chart().transform_filter(f"datum.outcome !== '{LOST}'").encode(x=x, color=colour)
    marks = (
        alt.Chart()
        .mark_point(filled=True, size=80, opacity=1, strokeWidth=1.4)
        .encode(
            x=x,
            y=y,
            color=colour,
            stroke=alt.Stroke("method:N", scale=style.colours, legend=None),
            shape=alt.Shape("outcome:N", title=None, scale=shapes, legend=legend),
            tooltip=[
                alt.Tooltip("name:N"),
                alt.Tooltip("x:Q", title="learning rate", format="~e"),
                alt.Tooltip("y:Q", title="loss", format=".4f"),
                alt.Tooltip("outcome:N"),
                alt.Tooltip("runs:N"),
            ],
        )
    )
    layers = alt.layer(
        finished.mark_line(strokeWidth=1.4).encode(y=y),
        finished.mark_rule(strokeWidth=1.2).encode(y=alt.Y("y_low:Q"), y2=alt.Y2("y_high:Q")),
        marks,
    )
    return layers.properties(width=84, height=82).facet(
        alt.Facet("method:N", title=None, header=alt.Header(labelFontSize=11, labelPadding=2)),
        data=inline(points),
        columns=3,
        spacing=8,
    )


def _decades(points: Sequence[dict]) -> list[float]:
    """Powers of ten among the rates, or around them."""
    exponents = [math.log10(point["x"]) for point in points]
    return [
        10.0**power for power in range(math.floor(min(exponents)), math.ceil(max(exponents)) + 1)
    ]


def _rate_points(made: Comparison, method: str) -> list[dict]:
    tried: dict[float, list[Row]] = {}
    for row in made.rows:
        if row.method == method and row.rate and row.rate > 0 and row.runs:
            tried.setdefault(row.rate, []).append(row)
    if len(tried) < 2:
        return []
    points = []
    for rate, rows in sorted(tried.items()):
        found = [(each, row) for row in rows if (each := row.estimate("loss.final"))]
        point: dict = {
            "method": method,
            "x": rate,
            "y": None,
            "outcome": LOST,
            "name": rows[0].name,
            "runs": rows[0].outcome,
        }
        if found:
            each, row = min(found, key=lambda item: item[0].mean)
            point.update(
                name=row.name,
                runs=row.outcome,
                y=each.mean,
                outcome=TRIED,
                **ends("y", each.mean, each.half),
            )
        points.append(point)
    drawn = [point for point in points if point["y"] is not None]
    if drawn:
        best = min(drawn, key=lambda point: point["y"])
        best["outcome"] = EDGE if best in (points[0], points[-1]) else BEST
    return points


# ---------------------------------------------------------------- ablations
def ablations(made: Comparison, methods: Sequence[str]) -> Named:
    """A chart for each numeric setting, other than the learning rate, that varies within a method."""
    if not made.qualities:
        return
    quality = made.qualities[0]
    for key in sorted({key for row in made.rows for key in row.setting} - {RATE}):
        points = [
            point
            for method in sorted({row.method for row in made.rows})
            for point in _ablation_points(made, method, key, quality)
        ]
        if points:
            yield (
                f"ablation_{slug(key)}",
                f"{quality.heading} by {key}",
                _ablation_chart(points, key, quality, methods),
            )


def _ablation_chart(
    points: list[dict], key: str, quality: Quality, methods: Sequence[str]
) -> Figure:
    ticks = sorted({point["x"] for point in points})
    log = ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]
    _set_apart(points, log, ticks[-1] - ticks[0])
    kind = {"type": "log"} if log else {"zero": False}
    domain = axis_range([point["drawn"] for point in points], 1.3 if log else 0)
    x = alt.X(
        "drawn:Q",
        title=key,
        scale=alt.Scale(domain=domain, **kind),
        axis=alt.Axis(values=ticks[:12], labelExpr="'' + datum.value"),
    )
    y, style = quality_axis(quality, points), Style(methods, {point["method"] for point in points})
    others = list(dict.fromkeys(point["others"] for point in points))
    legend = alt.Legend(columns=1, labelLimit=300, **STROKE) if len(others) > 1 else None
    dash = alt.StrokeDash("others:N", title=None, sort=others, legend=legend)
    tips = [
        "name:N",
        alt.Tooltip("x:Q", title=key),
        alt.Tooltip("y:Q", title=quality.title, format=".4f"),
    ]
    base = alt.Chart(inline(points)).encode(color=style.colour)
    return alt.layer(
        base.mark_line(strokeWidth=1.5).encode(x=x, y=y, detail="others:N", strokeDash=dash),
        base.mark_rule(strokeWidth=1.2).encode(x=x, y="y_low:Q", y2="y_high:Q"),
        base.mark_point(filled=True, size=40, opacity=1).encode(x=x, y=y, tooltip=tips),
    ).properties(width=WIDTH, height=HEIGHT)


def _set_apart(points: list[dict], log: bool, span: float) -> None:
    """Move lines a little sideways, so that their intervals do not lie on each other; ticks and tips stay exact."""
    order = list(dict.fromkeys((point["method"], point["others"]) for point in points))
    for point in points:
        shift = order.index((point["method"], point["others"])) - (len(order) - 1) / 2
        point["drawn"] = point["x"] * 1.03**shift if log else point["x"] + 0.012 * span * shift


def _ablation_points(made: Comparison, method: str, key: str, quality: Quality) -> list[dict]:
    """Points of the lines of one method: rows that differ in `key` alone belong to one line."""
    rows = [row for row in made.rows if row.method == method and row.values(quality.path)]
    if len({str(row.setting.get(key)) for row in rows}) < 2:
        return []
    varied = [
        other
        for other in sorted({name for row in rows for name in row.setting} - {key})
        if len({str(row.setting.get(other)) for row in rows}) > 1
    ]
    found: dict[str, list[dict]] = {}
    for row in rows:
        x, each = as_number(row.setting.get(key)), row.estimate(quality.path)
        if x is not None and each is not None:
            others = ", ".join(f"{other}={row.setting.get(other)}" for other in varied)
            found.setdefault(others, []).append(
                {
                    "method": method,
                    "name": row.name,
                    "others": others,
                    "x": x,
                    "y": each.mean,
                    **ends("y", each.mean, each.half),
                }
            )
    drawn = [line for line in found.values() if len({point["x"] for point in line}) > 1]
    return [point for line in drawn[:MOST_LINES] for point in line]
