"""Writing a report: tables, charts and page, each whole, and the charts of an earlier one taken away."""

from collections.abc import Sequence
from pathlib import Path

import vl_convert

from tuneoff.record import write_atomically
from tuneoff.report import latex, write_tables
from tuneoff.report.charts import Chart, make_charts
from tuneoff.report.comparability import Differences
from tuneoff.report.compare import Comparison
from tuneoff.report.folder import CHARTS, PAGE, claim_names, remove_others
from tuneoff.report.latex_text import list_unset
from tuneoff.report.page import render_page
from tuneoff.report.presentation import Presentation
from tuneoff.report.text import show_line

MOST_SHOWN = 20  # characters in a message
MOST_CHARTED = 6  # comparisons with charts; more are a sign that the guard has much to say
CHART_KINDS = ("svg", "pdf", "png")
TABLES = ("table.md", "summary.md", "table.csv", "table.tex", "summary.tex")
ChartsByName = dict[str, list[Chart]]  # by the name of their comparison
TABLES_AND_PAGE = (*TABLES, PAGE)


def write_report(
    comparisons: Sequence[Comparison],
    differing: Differences,
    skipped: Sequence[str],
    folder: Path,
    title: str,
    presentation: Presentation | None = None,
) -> list[str]:
    """Write tables, charts and page into `folder`, which is made if it is not there.

    What an earlier report wrote there is replaced; what is a user's own is not touched.

    Returns a line for each chart that could not be drawn, and for what LaTeX cannot set.

    Args:
        comparisons: the tables, the largest first.
        differing: the fields that keep the comparisons apart, with the value of each.
        skipped: a line for each file that was not read.
        folder: where to write.
        title: what the report is of.
        presentation: the columns of short tables; the rows are in its order already.

    Raises:
        ReportError: the folder holds a file of a name to write, which no report wrote.
        OSError: the folder cannot be written.
    """
    presentation = presentation or Presentation()
    charts: ChartsByName = {}
    for comparison in comparisons[:MOST_CHARTED]:
        charts[comparison.name] = make_charts(comparison)
    by_comparison = len(comparisons) > 1
    claim_names(folder, [*TABLES_AND_PAGE, *_list_charts(charts, by_comparison)])
    problems = _write_tables(comparisons, differing, folder, presentation)
    for name, drawn in charts.items():
        problems += _write_charts(drawn, folder, _name_suffix(name, by_comparison))
    heading = f"Report: {title}"
    page = render_page(comparisons, charts, differing, skipped, heading, presentation)
    write_atomically(folder / PAGE, page)
    remove_others(folder, [*TABLES_AND_PAGE, *_list_charts(charts, by_comparison)])
    return problems


def _write_tables(
    comparisons: Sequence[Comparison],
    differing: Differences,
    folder: Path,
    presentation: Presentation,
) -> list[str]:
    """Write the tables of all columns, and the summaries; returns a line where LaTeX lacks characters."""
    texts = (
        write_tables.write_markdown(comparisons, differing),
        write_tables.write_summary(comparisons, presentation),
        write_tables.write_csv(comparisons),
        latex.write_latex(comparisons),
        latex.write_latex_summary(comparisons, presentation),
    )
    for name, text in zip(TABLES, texts, strict=True):
        write_atomically(folder / name, text)
    unset = list_unset(texts[TABLES.index("table.tex")])
    if not unset:
        return []
    shown = " ".join(unset[:MOST_SHOWN])
    more = " …" if len(unset) > MOST_SHOWN else ""
    return [show_line(f"table.tex: what pdfLaTeX cannot set is written as U+number: {shown}{more}")]


def _list_charts(charts: ChartsByName, by_comparison: bool) -> list[str]:
    """The names of the files of all charts, in the report's folder."""
    names = []
    for name, drawn in charts.items():
        for chart in drawn:
            names += list_chart_files(chart, _name_suffix(name, by_comparison))
    return names


def _name_suffix(comparison: str, by_comparison: bool) -> str:
    """What a chart's file says of which comparison it is, where there are several."""
    return f"_{comparison}" if by_comparison else ""


def _write_charts(charts: list[Chart], folder: Path, suffix: str) -> list[str]:
    """Write the charts of a comparison; returns a line for each that could not be drawn, and was taken out."""
    problems: list[str] = []
    for chart in list(charts):
        try:
            write_chart(chart, folder / CHARTS, suffix)
        except ValueError as error:  # of the renderer, which sees what nobody has drawn before
            charts.remove(chart)
            problems.append(show_line(f"charts/{chart.name}{suffix}: not drawn, {error}")[:300])
    return problems


def list_chart_files(chart: Chart, suffix: str = "") -> list[str]:
    """Return the names of a chart's files in the report's folder."""
    return [f"{CHARTS}/{name}" for name in _name_files(chart, suffix)]


def write_chart(chart: Chart, folder: Path, suffix: str = "") -> list[str]:
    """Write a chart as SVG, PDF and PNG (at 2 pixels a unit); returns the names of the files."""
    svg = vl_convert.vegalite_to_svg(chart.spec, allowed_base_urls=[])
    names = _name_files(chart, suffix)
    contents: list[str | bytes] = [svg, vl_convert.svg_to_pdf(svg)]
    contents.append(vl_convert.svg_to_png(svg, scale=2))
    for name, content in zip(names, contents, strict=True):
        write_atomically(folder / name, content)
    return names


def _name_files(chart: Chart, suffix: str) -> list[str]:
    return [f"{chart.name}{suffix}.{kind}" for kind in CHART_KINDS]
