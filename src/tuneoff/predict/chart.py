"""Memory over one step, as an area a category: where in a step the peak is, and what it is made of."""

from importlib.util import find_spec
from pathlib import Path

from tuneoff.predict.prediction import category_words

CHART = "memory.svg"
TITLE_X = "Allocations and frees of the step (%)"
TITLE_Y = "Live tensors (GiB)"


def draw_timeline(timeline: dict, folder: Path) -> Path | None:
    """Write the chart of prediction.json's `timeline` into `folder`; None where the report extra is not installed."""
    if not (find_spec("altair") and find_spec("vl_convert")):
        return None
    import altair as alt
    import vl_convert

    from tuneoff.report.charts.style import (
        CATEGORY_COLOURS,
        HEIGHT,
        WIDTH,
        inline_data,
        style_figure,
    )

    moments = timeline["gib"]
    categories = [category_words(category) for category in moments[0]]
    colours = alt.Scale(domain=categories, range=CATEGORY_COLOURS)
    legend = alt.Legend(columns=2)
    title = f"Predicted memory, {timeline['step']}"
    chart = alt.Chart(inline_data(_rows(moments)), title=title)
    chart = chart.mark_area(interpolate="step-after")
    chart = chart.encode(
        x=alt.X("progress:Q", title=TITLE_X),
        order=alt.Order("order:Q"),
        y=alt.Y("gib:Q", title=TITLE_Y, stack="zero"),
        color=alt.Color("part:N", title=None, scale=colours, legend=legend),
    )
    specification = style_figure(chart.properties(width=WIDTH, height=HEIGHT))
    path = folder / CHART
    path.write_text(vl_convert.vegalite_to_svg(specification))
    return path


def _rows(moments: list[dict]) -> list[dict]:
    """The chart's data: a row for each category at each moment."""
    last = max(1, len(moments) - 1)
    rows = []
    for index, moment in enumerate(moments):
        for order, category in enumerate(moments[0]):
            rows.append(
                {
                    "part": category_words(category),
                    "order": order,
                    "gib": moment[category],
                    "progress": 100 * index / last,
                }
            )
    return rows
