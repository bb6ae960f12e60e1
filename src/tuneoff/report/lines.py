"""Charts that are lines: learning curves, loss against learning rate, and ablations over a numeric setting."""
from collections.abc import Sequence

import altair as alt
import numpy as np

from tuneoff.report.compare import RATE, Comparison, Quality, Row
from tuneoff.report.read import Run, as_number
from tuneoff.report.style import (
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

POINTS = 100  # a learning curve's resolution
SMOOTH = 9  # points of a moving mean over training losses
MOST_LINES = 21  # more cannot be told apart
AXES = (("step", "Optimizer steps"), ("token", "Tokens seen (non-padding)"), ("second", "Training time (s)"))


# ---------------------------------------------------------------- learning curves
def curves(made: Comparison, methods: Sequence[str]) -> Named:
    """Loss by step, by token and by second. Validation where every run has three evaluations, else training."""
    rows = made.best_rows[:MOST_LINES]
    found = [run.curve for row in rows for run in row.finished.values() if run.curve is not None]
    validated = bool(found) and all(len(curve.validation) >= 3 for curve in found)
    shown = "Validation loss" if validated else "Training loss, smoothed"
    best = "; each method at its best setting" if len(made.rows) > len({row.method for row in made.rows}) else ""
    for column, (unit, title) in enumerate(AXES):
        lines = [line for row in rows if len(line := _mean_curve(row, column, validated)) > 1]
        if lines:
            tokens = "format(datum.value, '~s')" if unit == "token" else "format(datum.value, ',~g')"
            x = alt.X("x:Q", title=title, axis=alt.Axis(tickCount=5, labelExpr=tokens))
            yield (f"curve_{unit}", f"{shown} by {unit}, mean over seeds, without the steep start{best}",
                   _curve_chart(lines, x, shown, methods))


def _curve_chart(lines: list[list[dict]], x: alt.X, shown: str, methods: Sequence[str]) -> alt.Chart:
    # The first tenth falls so far that nothing else could be told apart beside it.
    late = max(line[-1]["x"] for line in lines) / 10
    low, top = axis_range([point["y"] for line in lines for point in line if point["x"] >= late])
    points = [point for line in lines for point in _below(top, line)]
    style = Style(methods, {point["method"] for point in points}, lines=True)
    y = alt.Y("y:Q", title=f"{shown} (nats per token)",
              scale=alt.Scale(zero=False, domain=[min(low, *(point["y"] for point in points)), top]))
    return alt.Chart(inline(points)).mark_line(strokeWidth=1.6).encode(
        x=x, y=y,
        color=style.colour, strokeDash=style.dash,
        tooltip=["method:N", alt.Tooltip("x:Q", format=",.4g"), alt.Tooltip("y:Q", title="loss", format=".4f")],
    ).properties(width=WIDTH, height=HEIGHT)


def _below(top: float, line: list[dict]) -> list[dict]:
    """The line from where it comes below `top` for good: a mark that is clipped takes ten times as long to render."""
    after = max((index + 1 for index, point in enumerate(line) if point["y"] > top), default=0)
    if not 0 < after < len(line):
        return line[after:]
    (x0, y0), (x1, y1) = ((point["x"], point["y"]) for point in line[after - 1:after + 1])
    return [{**line[after], "x": x0 + (x1 - x0) * (y0 - top) / (y0 - y1), "y": top}, *line[after:]]


def _mean_curve(row: Row, column: int, validated: bool) -> list[dict]:
    """The mean over seeds on a common grid that ends where the first seed ends."""
    found = [curve for run in row.finished.values() if (curve := _one_curve(run, column, validated)) is not None]
    if not found:
        return []
    start, end = max(x[0] for x, _ in found), min(x[-1] for x, _ in found)
    grid = found[0][0] if validated and column == 0 else np.linspace(start, end, POINTS)
    mean = np.mean([np.interp(grid, x, y) for x, y in found], axis=0)
    return [{"method": row.method, "x": float(f"{x:.6g}"), "y": round(float(y), 5)}
            for x, y in zip(grid, mean, strict=True)]


def _one_curve(run: Run, column: int, validated: bool) -> tuple[np.ndarray, np.ndarray] | None:
    curve = run.curve
    if curve is None or len(curve.train) < 2:
        return None
    if validated:
        steps, losses = curve.validation.T
        scale = np.vstack([np.zeros(4), curve.train])  # at step 0 no token was seen and no second spent
        return np.interp(steps, scale[:, 0], scale[:, column]), losses
    kernel = np.ones(min(SMOOTH, len(curve.train)))
    counts = np.convolve(np.ones(len(curve.train)), kernel, "same")
    return curve.train[:, column], np.convolve(curve.train[:, 3], kernel, "same") / counts


# ---------------------------------------------------------------- loss against learning rate
def rates(made: Comparison, methods: Sequence[str]) -> Named:
    """Tuning sensitivity: validation loss, because a rate is chosen on it. Of other settings, the best at each rate."""
    points = [point for method in sorted({row.method for row in made.rows}) for point in _rate_points(made, method)]
    drawn = [point for point in points if point["y"] is not None]
    if not drawn:
        return
    # A rate at which no seed finished has no loss: it stands at the upper edge, so that it is seen to have been tried.
    top = max(point["y"] for point in drawn)
    lost = [{**point, "y": top} for point in points if point["y"] is None]
    title = "Loss against learning rate; ring: the best; square: the best, and on the edge of its grid"
    yield ("learning_rate", title + ("; ×: no seed finished" if lost else ""),
           _rate_chart(drawn, lost, Style(methods, {point["method"] for point in points}, lines=True)))


def _rate_chart(drawn: list[dict], lost: list[dict], style: Style) -> Figure:
    tried = sorted({point["x"] for point in drawn + lost})
    x = alt.X("x:Q", title="Learning rate", scale=alt.Scale(type="log", domain=axis_range(tried, log=True)),
              axis=alt.Axis(format="~e", values=tried if len(tried) <= 12 else alt.Undefined))
    domain = axis_range([point[key] for point in drawn for key in ("y", "y_low", "y_high")])
    y = alt.Y("y:Q", title="Validation loss (nats per token)", scale=alt.Scale(zero=False, domain=domain))
    tips = ["name:N", alt.Tooltip("x:Q", title="learning rate", format="~e"),
            alt.Tooltip("y:Q", title="loss", format=".4f"), "state:N"]
    base = alt.Chart(inline(drawn)).encode(color=style.colour)
    layers = [base.mark_line(strokeWidth=1.5).encode(x=x, y=y, strokeDash=style.dash),
              base.mark_rule(strokeWidth=1.2).encode(x=x, y="y_low:Q", y2="y_high:Q"),
              base.mark_point(filled=True, size=28, opacity=1).encode(x=x, y=y, tooltip=tips)]
    marks = (([point for point in drawn if point["state"] == "best"], "circle", 130),
             ([point for point in drawn if point["state"] == "best, on the edge"], "square", 150),
             (lost, "M-1,-1L1,1M-1,1L1,-1", 50))
    for marked, shape, size in marks:
        if marked:
            ring = alt.Chart(inline(marked)).mark_point(filled=False, shape=shape, size=size, strokeWidth=1.6,
                                                         opacity=1)
            layers.append(ring.encode(x=x, y=y, color=style.colour, tooltip=tips))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


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
        point: dict = {"method": method, "x": rate, "name": rows[0].name, "y": None, "state": rows[0].outcome}
        if found:
            each, row = min(found, key=lambda item: item[0].mean)
            point.update(name=row.name, y=each.mean, state="", **ends("y", each.mean, each.half))
        points.append(point)
    drawn = [point for point in points if point["y"] is not None]
    if drawn:
        best = min(drawn, key=lambda point: point["y"])
        best["state"] = "best, on the edge" if best in (points[0], points[-1]) else "best"
    return points


# ---------------------------------------------------------------- ablations
def ablations(made: Comparison, methods: Sequence[str]) -> Named:
    """A chart for each numeric setting, other than the learning rate, that varies within a method."""
    if not made.qualities:
        return
    quality = made.qualities[0]
    for key in sorted({key for row in made.rows for key in row.setting} - {RATE}):
        points = [point for method in sorted({row.method for row in made.rows})
                  for point in _ablation_points(made, method, key, quality)]
        if points:
            yield f"ablation_{slug(key)}", f"{quality.heading} by {key}", _ablation_chart(points, key, quality, methods)


def _ablation_chart(points: list[dict], key: str, quality: Quality, methods: Sequence[str]) -> Figure:
    ticks = sorted({point["x"] for point in points})
    log = ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]
    _set_apart(points, log, ticks[-1] - ticks[0])
    domain, kind = axis_range([point["drawn"] for point in points], log), {"type": "log"} if log else {"zero": False}
    x = alt.X("drawn:Q", title=key, scale=alt.Scale(domain=domain, **kind),
              axis=alt.Axis(values=ticks[:12], labelExpr="'' + datum.value"))
    y, style = quality_axis(quality, points), Style(methods, {point["method"] for point in points})
    others = list(dict.fromkeys(point["others"] for point in points))
    legend = alt.Legend(columns=1, labelLimit=300, **STROKE) if len(others) > 1 else None
    dash = alt.StrokeDash("others:N", title=None, sort=others, legend=legend)
    tips = ["name:N", alt.Tooltip("x:Q", title=key), alt.Tooltip("y:Q", title=quality.title, format=".4f")]
    base = alt.Chart(inline(points)).encode(color=style.colour)
    return alt.layer(base.mark_line(strokeWidth=1.5).encode(x=x, y=y, detail="others:N", strokeDash=dash),
                     base.mark_rule(strokeWidth=1.2).encode(x=x, y="y_low:Q", y2="y_high:Q"),
                     base.mark_point(filled=True, size=40, opacity=1).encode(x=x, y=y, tooltip=tips),
                     ).properties(width=WIDTH, height=HEIGHT)


def _set_apart(points: list[dict], log: bool, span: float) -> None:
    """Move lines a little sideways, so that their intervals do not lie on each other; ticks and tips stay exact."""
    order = list(dict.fromkeys((point["method"], point["others"]) for point in points))
    for point in points:
        shift = order.index((point["method"], point["others"])) - (len(order) - 1) / 2
        point["drawn"] = point["x"] * 1.03 ** shift if log else point["x"] + 0.012 * span * shift


def _ablation_points(made: Comparison, method: str, key: str, quality: Quality) -> list[dict]:
    """Points of the lines of one method: rows that differ in `key` alone belong to one line."""
    rows = [row for row in made.rows if row.method == method and row.values(quality.path)]
    if len({str(row.setting.get(key)) for row in rows}) < 2:
        return []
    varied = [other for other in sorted({name for row in rows for name in row.setting} - {key})
              if len({str(row.setting.get(other)) for row in rows}) > 1]
    found: dict[str, list[dict]] = {}
    for row in rows:
        x, each = as_number(row.setting.get(key)), row.estimate(quality.path)
        if x is not None and each is not None:
            others = ", ".join(f"{other}={row.setting.get(other)}" for other in varied)
            found.setdefault(others, []).append({"method": method, "name": row.name, "others": others, "x": x,
                                                 "y": each.mean, **ends("y", each.mean, each.half)})
    drawn = [line for line in found.values() if len({point["x"] for point in line}) > 1]
    return [point for line in drawn[:MOST_LINES] for point in line]
