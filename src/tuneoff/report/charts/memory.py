"""Chart of what the memory of training is made of: measured, and predicted beside it."""

from collections.abc import Iterator

import altair as alt

from tuneoff.report.charts.style import (
    CATEGORY_COLOURS,
    WIDTH,
    Chart,
    Figure,
    Point,
    inline_data,
    keep_drawable,
    make_chart,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.records import MEMORY_PARTS
from tuneoff.report.rows import Row

ROOM_FOR_NAMES = 70  # of methods, left of the bars
KINDS = ["measured", "predicted"]


def chart_memory(comparison: Comparison) -> Iterator[Chart]:
    """Yield stacked bars of each method's best setting, or of its prediction alone; predicted beside measured."""
    rows = {row.method: row for row in comparison.best_rows}
    for row in comparison.rows:
        if row.prediction:
            rows.setdefault(row.method, row)
    titles = [row.title for row in rows.values()]
    bars = []
    for row in rows.values():
        bars += keep_drawable(_make_bars(row))
    if not bars:
        return
    title = "What the memory of tensors in training is made of"
    if len({bar["kind"] for bar in bars}) > 1:
        title += "; pale: predicted, for rows of max_length tokens"
        figure = _split_by_kind(_draw_bars(bars, titles))
    else:
        title += f", {bars[0]['kind']}"
        figure = _draw_bars(bars, titles).properties(height=alt.Step(18))
    yield make_chart("memory_breakdown", title, figure.properties(width=WIDTH - ROOM_FOR_NAMES))


def _make_bars(row: Row) -> list[Point]:
    """The parts of a row's prediction, and of its finished run with the highest peak."""
    breakdowns = []
    if row.prediction:
        breakdowns.append(("predicted", row.prediction.breakdown))
    if row.finished:
        measured = [run.breakdown for run in row.finished.values()]
        highest = max(measured, key=lambda gib_by_part: sum(gib_by_part.values()))
        breakdowns.append(("measured", highest))
    bars = []
    for kind, gib_by_part in breakdowns:
        for part, gib in gib_by_part.items():
            bar = {
                "method": row.title,
                "kind": kind,
                "part": part.replace("_", " "),
                "order": MEMORY_PARTS.index(part),
                "gib": gib,
            }
            bars.append(bar)
    return bars


def _draw_bars(bars: list[Point], methods: list[str]) -> alt.Chart:
    parts = [part.replace("_", " ") for part in MEMORY_PARTS]
    colours = alt.Scale(domain=parts, range=CATEGORY_COLOURS)
    legend = alt.Legend(columns=2)
    x = alt.X(
        "gib:Q",
        title="Memory at the peak of a train step (GiB)",
        stack="zero",
        axis=alt.Axis(tickCount=5),
    )
    tips = [alt.Tooltip(f"{name}:N") for name in ("method", "kind", "part")]
    tips.append(alt.Tooltip("gib:Q", title="GiB", format=".4f"))
    chart = alt.Chart(inline_data(bars)).mark_bar(stroke="white", strokeWidth=0.4)
    return chart.encode(
        x=x,
        y=alt.Y("method:N", title=None, sort=methods),
        order=alt.Order("order:Q"),
        color=alt.Color("part:N", title=None, scale=colours, legend=legend),
        tooltip=tips,
    )


def _split_by_kind(chart: alt.Chart) -> Figure:
    """Two bars a method, the predicted one pale."""
    pale = alt.Scale(domain=KINDS, range=[1, 0.5])
    legend = alt.Legend(columns=1)
    return chart.encode(
        yOffset=alt.YOffset("kind:N", sort=KINDS),
        opacity=alt.Opacity("kind:O", title=None, scale=pale, legend=legend),
    ).properties(height=alt.Step(13))
