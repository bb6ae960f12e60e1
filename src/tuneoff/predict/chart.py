"""Memory over one step, as an area a category: where in a step the peak is, and what it is made of."""

from importlib.util import find_spec
from pathlib import Path

CHART = "memory.svg"


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
    parts = list(moments[0])
    last = max(1, len(moments) - 1)
    rows = [
        {
            "part": part.replace("_", " "),
            "order": order,
            "gib": moment[part],
            "progress": 100 * place / last,
        }
        for place, moment in enumerate(moments)
        for order, part in enumerate(parts)
    ]
    colours = alt.Scale(domain=[part.replace("_", " ") for part in parts], range=CATEGORY_COLOURS)
    chart = alt.Chart(inline_data(rows), title=f"Predicted memory, {timeline['step']}").mark_area(
        interpolate="step-after"
    )
    chart = chart.encode(
        x=alt.X("progress:Q", title="Allocations and frees of the step (%)"),
        order=alt.Order("order:Q"),
        y=alt.Y("gib:Q", title="Live tensors (GiB)", stack="zero"),
        color=alt.Color("part:N", title=None, scale=colours, legend=alt.Legend(columns=2)),
    )
    path = folder / CHART
    path.write_text(
        vl_convert.vegalite_to_svg(style_figure(chart.properties(width=WIDTH, height=HEIGHT)))
    )
    return path
