"""Tables as Markdown and CSV. Text from a record is escaped: it may hold anything."""

import csv
import io
import math
from collections.abc import Sequence

from tuneoff.report.answer import write_answer
from tuneoff.report.caption import write_caption
from tuneoff.report.cells import Cell, Figure
from tuneoff.report.comparability import Differences
from tuneoff.report.compare import Comparison
from tuneoff.report.presentation import Presentation
from tuneoff.report.table import Column, make_columns

MARKUP = "\\`*_[]|~$"
ESCAPED = {character: f"\\{character}" for character in MARKUP}
MARKDOWN = str.maketrans({"<": "&lt;", "&": "&amp;", **ESCAPED})
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs text that begins so


# ---------------------------------------------------------------- Markdown
def write_markdown(comparisons: Sequence[Comparison], differing: Differences) -> str:
    """Return all tables, each with its caption; where there is more than one, what keeps them apart."""
    parts = []
    if differing:
        parts.append(list_differences(comparisons, differing))
    for comparison in comparisons:
        heading = f"### Comparison {comparison.name}\n\n" if len(comparisons) > 1 else ""
        answer = escape_markdown(" ".join(write_answer(comparison)))
        table = _markdown_table(make_columns(comparison))
        caption = escape_markdown(write_caption(comparison))
        parts.append(f"{heading}{answer}\n\n{table}\n\n{caption}")
    return "\n\n".join(parts) + "\n"


def write_summary(comparisons: Sequence[Comparison], presentation: Presentation) -> str:
    """Return the largest comparison in a table narrow enough for a README: what decides, costs, and failed."""
    comparison = comparisons[0]
    columns = presentation.choose_columns(comparison)
    caption = escape_markdown(write_caption(comparison))
    return f"{_markdown_table(columns)}\n\n{caption}\n"


def _markdown_table(columns: Sequence[Column]) -> str:
    titles = [escape_markdown(column.title) for column in columns]
    alignments = ["--:" if column.numeric else ":--" for column in columns]
    lines = [_markdown_line(titles), "|" + "|".join(alignments) + "|"]
    for cells in zip(*(column.cells for column in columns), strict=True):
        lines.append(_markdown_line([_markdown_cell(cell) for cell in cells]))
    return "\n".join(lines)


def _markdown_line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.bold else text


def list_differences(comparisons: Sequence[Comparison], differing: Differences) -> str:
    """Return a Markdown list of the fields that differ between comparisons, with their values."""
    count = len(comparisons)
    lines = [f"The records cannot all be compared: {count} comparisons, which differ in", ""]
    for name, values in differing.items():
        texts = [
            f"{value} ({comparison.name})"
            for value, comparison in zip(values, comparisons, strict=True)
        ]
        listing = escape_markdown(", ".join(texts))
        lines.append(f"- {escape_markdown(name)}: {listing}")
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Return a text on one line in which nothing is markup."""
    return " ".join(text.split()).translate(MARKDOWN)


# ---------------------------------------------------------------- CSV
def write_csv(comparisons: Sequence[Comparison]) -> str:
    """Return one table of plain figures: a line a row, `comparison` first; a figure's interval and n beside it."""
    lines: list[dict[str, str]] = []
    for comparison in comparisons:
        lines += _csv_lines(comparison)
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writerow({name: _csv_figure(name) for name in names})
    writer.writerows(lines)
    return text.getvalue()


def _csv_lines(comparison: Comparison) -> list[dict[str, str]]:
    """The figures of each row, by the names of the columns."""
    columns = make_columns(comparison)
    quality_keys = {quality.key for quality in comparison.qualities}
    lines = []
    for index, row in enumerate(comparison.rows):
        line = {"comparison": comparison.name}
        for column in columns:
            cell = column.cells[index]
            for suffix, figure in cell.figures.items():
                name = f"{column.key}_{suffix}" if suffix else column.key
                line[name] = _csv_figure(figure)
            if column.key in quality_keys:
                line[f"{column.key}_best"] = _csv_figure(cell.bold)
        line["outcome"] = row.outcome
        lines.append(line)
    return lines


def _csv_figure(figure: Figure) -> str:
    if figure is None or (isinstance(figure, float) and math.isnan(figure)):
        return ""
    if isinstance(figure, bool):
        return str(figure).lower()
    if isinstance(figure, float):
        return f"{figure:.8g}"
    if isinstance(figure, int):
        return str(figure)
    return f"'{figure}" if figure.startswith(FORMULA_STARTS) else figure
