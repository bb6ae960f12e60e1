"""The charts of a comparison, each one Vega-Lite specification: the paper's figure and the page's are the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt

from tuneoff.report import stats
from tuneoff.report.charts import lines
from tuneoff.report.charts.style import (
    CATEGORY_COLOURS,
    HEIGHT,
    WIDTH,
    Figure,
    Named,
    Style,
    axis_range,
    ends,
    inline,
    quality_axis,
    slug,
    styled,
)
from tuneoff.report.compare import Comparison, Quality
from tuneoff.report.records import PARTS
from tuneoff.report.rows import Row


@dataclass(frozen=True)
class Chart:
    """A specification with the name of its files and a heading."""

    name: str
    title: str
    spec: dict


@dataclass(frozen=True)
class Cost:
    """What a quality is set against: mean and half interval of a row, or None."""

    name: str
    title: str
    of: Callable[[Row], tuple[float, float | None] | None]
    lower_is_better: bool


def charts(made: Comparison, methods: Sequence[str]) -> list[Chart]:
    """All charts that a comparison's records allow. `methods`: all of the report's, so that colours stay the same."""
    found = [
        *_trade_offs(made, methods),
        *lines.curves(made, methods),
        *lines.rates(made, methods),
        *_memory(made),
        *lines.ablations(made, methods),
    ]
    return [Chart(name, title, styled(chart)) for name, title, chart in found]


# ---------------------------------------------------------------- quality against cost
def _trade_offs(made: Comparison, methods: Sequence[str]) -> Named:
    measure = next((f", {value}" for run in made.runs if (value := run.get("memory.measure"))), "")
    costs = [
        Cost("memory", f"Peak memory while training (GiB{measure})", _peak, True),
        Cost("speed", "Training speed (tokens/s)", _speed, False),
    ]
    rows = made.tuned_rows
    tuned = (
        "; each setting at its best rate"
        if len(rows) < sum(bool(row.finished) for row in made.rows)
        else ""
    )
    for quality in made.qualities:
        suffix = (
            ""
            if quality is made.qualities[0]
            else f"_{slug(quality.path.removeprefix('metrics.'))}"
        )
        for cost in costs:
            points = [point for row in rows if (point := _point(row, quality, cost))]
            if len(points) > 1:
                title = f"{quality.heading} against {cost.name}; dashed: the Pareto front of the means{tuned}"
                yield (
                    f"quality_{cost.name}{suffix}",
                    title,
                    _trade_off(points, quality, cost, methods),
                )


def _peak(row: Row) -> tuple[float, None] | None:
    return None if row.train_peak is None else (row.train_peak, None)


def _speed(row: Row) -> tuple[float, float | None] | None:
    found = row.estimate("throughput.tokens_per_second")
    return (found.mean, found.half) if found else None


def _point(row: Row, quality: Quality, cost: Cost) -> dict | None:
    found, spent = row.estimate(quality.path), cost.of(row)
    if found is None or spent is None:
        return None
    return {
        "method": row.method,
        "name": row.name,
        "x": spent[0],
        "y": found.mean,
        "seeds": found.n,
        **ends("y", found.mean, found.half),
        **ends("x", *spent),
    }


def _trade_off(points: list[dict], quality: Quality, cost: Cost, methods: Sequence[str]) -> Figure:
    domain = axis_range([point[key] for point in points for key in ("x", "x_low", "x_high")])
    x = alt.X(
        "x:Q",
        title=cost.title,
        scale=alt.Scale(zero=False, domain=domain),
        axis=alt.Axis(tickCount=4),
    )
    y, style = quality_axis(quality, points), Style(methods, {point["method"] for point in points})
    signs = 1 if cost.lower_is_better else -1, 1 if quality.lower_is_better else -1
    best = stats.front([(signs[0] * point["x"], signs[1] * point["y"]) for point in points])
    front = (
        alt.Chart(inline([points[index] for index in best]))
        .mark_line(
            color="#888888",
            strokeDash=[3, 3],
            strokeWidth=1.2,
            interpolate="step-after" if cost.lower_is_better else "step-before",
        )
        .encode(x=x, y=y, order="x:Q")
    )
    base = alt.Chart(inline(points)).encode(color=style.colour)
    tips = [
        "name:N",
        alt.Tooltip("y:Q", title=quality.title, format=".4f"),
        alt.Tooltip("x:Q", title=cost.title, format=",.4g"),
        "seeds:Q",
    ]
    return alt.layer(
        front,
        base.mark_rule(strokeWidth=1.2).encode(x=x, y="y_low:Q", y2="y_high:Q"),
        base.mark_rule(strokeWidth=1.2).encode(x="x_low:Q", x2="x_high:Q", y=y),
        base.mark_point(
            filled=False, size=70, opacity=1, strokeWidth=2
        ).encode(  # hollow, so that none hides another
            x=x, y=y, shape=style.shape, tooltip=tips
        ),
    ).properties(width=WIDTH, height=HEIGHT)


# ---------------------------------------------------------------- memory
def _memory(made: Comparison) -> Named:
    """Stacked bars of each method's best setting, or of its prediction alone; predicted beside measured."""
    shown = {row.method: row for row in made.best_rows}
    for row in made.rows:
        if row.foreseen:
            shown.setdefault(row.method, row)
    bars = [bar for method in sorted(shown) for bar in _breakdowns(shown[method])]
    if not bars:
        return
    both = len({bar["kind"] for bar in bars}) > 1
    colours = alt.Scale(domain=[part.replace("_", " ") for part in PARTS], range=CATEGORY_COLOURS)
    chart = (
        alt.Chart(inline(bars))
        .mark_bar(stroke="white", strokeWidth=0.4)
        .encode(
            x=alt.X(
                "gib:Q",
                title="Memory at the peak of a train step (GiB)",
                stack="zero",
                axis=alt.Axis(tickCount=5),
            ),
            y=alt.Y("method:N", title=None, sort=sorted(shown)),
            order=alt.Order("order:Q"),
            color=alt.Color("part:N", title=None, scale=colours, legend=alt.Legend(columns=2)),
            tooltip=[
                "method:N",
                "kind:N",
                "part:N",
                alt.Tooltip("gib:Q", title="GiB", format=".4f"),
            ],
        )
    )
    if both:
        kinds = ["measured", "predicted"]
        pale = alt.Scale(domain=kinds, range=[1, 0.5])
        chart = chart.encode(
            yOffset=alt.YOffset("kind:N", sort=kinds),
            opacity=alt.Opacity("kind:O", title=None, scale=pale, legend=alt.Legend(columns=1)),
        )
    title = "What the memory of tensors in training is made of" + (
        "; pale: predicted, for rows of max_length tokens" if both else f", {bars[0]['kind']}"
    )
    yield (
        "memory_breakdown",
        title,
        chart.properties(width=WIDTH, height=alt.Step(13 if both else 18)),
    )


def _breakdowns(row: Row) -> list[dict]:
    sources = [("predicted", row.foreseen.breakdown)] if row.foreseen else []
    if row.finished:
        breakdowns = [run.breakdown for run in row.finished.values()]
        sources.append(("measured", max(breakdowns, key=lambda parts: sum(parts.values()))))
    return [
        {
            "method": row.method,
            "kind": kind,
            "part": part.replace("_", " "),
            "order": PARTS.index(part),
            "gib": gib,
        }
        for kind, parts in sources
        for part, gib in parts.items()
    ]
