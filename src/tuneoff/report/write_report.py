"""The report's folder: tables, charts and page, written whole, and what an earlier report left there taken away."""

from collections.abc import Sequence
from pathlib import Path

import vl_convert

from tuneoff.record import write_atomically
from tuneoff.report import latex, write_tables
from tuneoff.report.charts import Chart, make_charts
from tuneoff.report.comparability import Differences
from tuneoff.report.compare import Comparison
from tuneoff.report.page import render_page
from tuneoff.report.presentation import Presentation
from tuneoff.report.text import show_line

MOST_CHARTED = 6  # comparisons with charts; more are a sign that the guard has much to say
CHART_KINDS = ("svg", "pdf", "png")


def write_report(
    comparisons: Sequence[Comparison],
    differing: Differences,
    skipped: Sequence[str],
    folder: Path,
    title: str,
    presentation: Presentation | None = None,
) -> list[str]:
    """Write tables, charts and page into `folder`, which is made if it is not there.

    Returns a line for each chart that could not be drawn.

    Args:
        comparisons: the tables, the largest first.
        differing: the fields that keep the comparisons apart, with the value of each.
        skipped: a line for each file that was not read.
        folder: where to write.
        title: what the report is of.
        presentation: the columns of short tables; the rows are in its order already.

    Raises:
        OSError: the folder cannot be written.
    """
    presentation = presentation or Presentation()
    charts = {}
    for comparison in comparisons[:MOST_CHARTED]:
        charts[comparison.name] = make_charts(comparison)
    (folder / "charts").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", write_tables.write_markdown(comparisons, differing))
    write_atomically(folder / "summary.md", write_tables.write_summary(comparisons, presentation))
    write_atomically(folder / "table.csv", write_tables.write_csv(comparisons))
    write_atomically(folder / "table.tex", latex.write_latex(comparisons))
    summary = latex.write_latex_summary(comparisons, presentation)
    write_atomically(folder / "summary.tex", summary)
    problems = _write_charts(charts, folder / "charts", len(comparisons) > 1)
    heading = f"Report: {title}"
    page = render_page(comparisons, charts, differing, skipped, heading, presentation)
    write_atomically(folder / "report.html", page)
    return problems


def _write_charts(
    charts: dict[str, list[Chart]],
    folder: Path,
    by_comparison: bool,
) -> list[str]:
    """Write the charts of all comparisons, and remove others; returns a line for each that could not be drawn.

    Args:
        charts: by comparison; what could not be drawn is taken out.
        folder: where to write.
        by_comparison: whether a file's name says of which comparison it is.
    """
    written: set[str] = set()
    problems: list[str] = []
    for name, drawn in charts.items():
        suffix = f"_{name}" if by_comparison else ""
        for chart in list(drawn):
            try:
                written.update(write_chart(chart, folder, suffix))
            except ValueError as error:  # of the renderer, which sees what nobody has drawn before
                drawn.remove(chart)
                problems.append(show_line(f"charts/{chart.name}{suffix}: not drawn, {error}")[:300])
    _remove_others(folder, written)
    return problems


def write_chart(chart: Chart, folder: Path, suffix: str = "") -> list[str]:
    """Write a chart as SVG, PDF and PNG (at 2 pixels a unit); returns the names of the files."""
    svg = vl_convert.vegalite_to_svg(chart.spec, allowed_base_urls=[])
    stem = f"{chart.name}{suffix}"
    write_atomically(folder / f"{stem}.svg", svg)
    write_atomically(folder / f"{stem}.pdf", vl_convert.svg_to_pdf(svg))
    write_atomically(folder / f"{stem}.png", vl_convert.svg_to_png(svg, scale=2))
    return [f"{stem}.{kind}" for kind in CHART_KINDS]


def _remove_others(folder: Path, written: set[str]) -> None:
    """Remove the charts of an earlier report on other records."""
    for path in folder.iterdir():
        if path.suffix.removeprefix(".") in CHART_KINDS and path.name not in written:
            path.unlink()
