"""Tables as Markdown, CSV and LaTeX. Text from a record is escaped: it may hold anything."""

import csv
import io
import math
import re
from collections.abc import Sequence

from tuneoff.report.caption import write_caption
from tuneoff.report.cells import Cell, Figure
from tuneoff.report.comparability import Differences
from tuneoff.report.compare import Comparison
from tuneoff.report.table import Column, make_columns

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "³": "$^3$",
    "⁰": "$^0$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
MARKDOWN = str.maketrans({"<": "&lt;", **{character: f"\\{character}" for character in "\\`*_[]|"}})
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs text that begins so
# Of \footnotesize that an A4 page is wide, the space between two columns counted as two characters.
PAGE_CHARACTERS = 134
LEAST_CHARACTERS = 50  # names that fill the page shrink with the rest
SHORT_TITLE = 9  # a heading of fewer characters stays in one line
# Compiles alone and can be \input: after \begin{document}, LaTeX has made \@nodocument the same as \relax.
LATEX_HEAD = r"""% \input this file in a paper that loads booktabs and graphicx, or compile it alone.
\makeatletter
\ifx\@nodocument\relax\let\tuneoffend\relax\else
  \documentclass[10pt]{article}
  \usepackage[a4paper,margin=2cm]{geometry}
  \usepackage{booktabs,graphicx}
  \begin{document}
  \def\tuneoffend{\end{document}}
\fi
\makeatother
"""
LATEX_TABLE = r"\begin{table*}[t]\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}"
# Shrunk only where it is wider than the page.
LATEX_FIT = r"\ifdim\wd0>\textwidth\resizebox{\textwidth}{!}{\usebox0}\else\usebox0\fi"

Page = list[Column]


# ---------------------------------------------------------------- Markdown
def write_markdown(comparisons: Sequence[Comparison], differing: Differences) -> str:
    """Return all tables, each with its caption; where there is more than one, what keeps them apart."""
    parts = []
    if differing:
        parts.append(list_differences(comparisons, differing))
    for comparison in comparisons:
        heading = f"### Comparison {comparison.name}\n\n" if len(comparisons) > 1 else ""
        table = _markdown_table(make_columns(comparison))
        caption = _escape_markdown(write_caption(comparison))
        parts.append(f"{heading}{table}\n\n{caption}")
    return "\n\n".join(parts) + "\n"


def write_summary(comparisons: Sequence[Comparison]) -> str:
    """Return the largest comparison in a table narrow enough for a README: what decides, costs, and failed."""
    comparison = comparisons[0]
    wanted = ["method", "setting", "lr"]
    for quality in comparison.qualities:
        wanted += [quality.key, f"{quality.key}_difference"]
    wanted += ["tokens_per_second", "peak_train_gib", "trainable", "outcome"]
    by_key = {column.key: column for column in make_columns(comparison) if not column.empty}
    columns = [by_key[key] for key in wanted if key in by_key]
    caption = _escape_markdown(write_caption(comparison))
    return f"{_markdown_table(columns)}\n\n{caption}\n"


def _markdown_table(columns: Sequence[Column]) -> str:
    titles = [_escape_markdown(column.title) for column in columns]
    alignments = ["--:" if column.numeric else ":--" for column in columns]
    lines = [_markdown_line(titles), "|" + "|".join(alignments) + "|"]
    for cells in zip(*(column.cells for column in columns), strict=True):
        lines.append(_markdown_line([_markdown_cell(cell) for cell in cells]))
    return "\n".join(lines)


def _markdown_line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = _escape_markdown(cell.text)
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
        listing = _escape_markdown(", ".join(texts))
        lines.append(f"- {_escape_markdown(name)}: {listing}")
    return "\n".join(lines)


def _escape_markdown(text: str) -> str:
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


# ---------------------------------------------------------------- LaTeX
def write_latex(comparisons: Sequence[Comparison]) -> str:
    """Return a `table*` a comparison, booktabs, in as many parts below each other as keep it legible on a page."""
    parts = [LATEX_HEAD]
    for comparison in comparisons:
        pages = _split_into_pages(make_columns(comparison))
        tabulars = [_write_tabular(page, len(comparison.rows)) for page in pages]
        lines = [
            LATEX_TABLE,
            rf"\caption{{{_escape_latex(write_caption(comparison))}}}",
            rf"\label{{tab:tuneoff-{comparison.name}}}",
            "\n\\par\\medskip\n".join(tabulars),
            r"\end{table*}",
            "",
        ]
        parts.append("\n".join(lines))
    return "\n".join([*parts, r"\tuneoffend", ""])


def _split_into_pages(columns: Sequence[Column]) -> list[Page]:
    """The columns in as few parts as are legible, of about the same width, each beginning with what names a row."""
    names = [column for column in columns if column.key in ("method", "setting")]
    together: list[Page] = []  # a difference stays beside its measure
    for column in columns[len(names) :]:
        if not column.key.endswith("_difference"):
            together.append([])
        together[-1].append(column)
    room = max(PAGE_CHARACTERS - _count_characters(names), LEAST_CHARACTERS)
    # Counted once: there are as many tries below as characters in a line, and a table may have hundreds of rows.
    widths = [_count_characters(columns) for columns in together]
    pages = _fill_pages(together, widths, room)
    # The narrowest limit that needs no more pages fills them evenly.
    for limit in range(room):
        balanced = _fill_pages(together, widths, limit)
        if len(balanced) == len(pages):
            pages = balanced
            break
    return [[*names, *page] for page in pages]


def _fill_pages(together: Sequence[Page], widths: Sequence[int], limit: int) -> list[Page]:
    """Pages of at most `limit` characters, or of one entry of `together` where that alone is wider."""
    pages: list[Page] = [[]]
    filled = 0
    for columns, width in zip(together, widths, strict=True):
        if pages[-1] and filled + width > limit:
            pages.append([])
            filled = 0
        pages[-1] += columns
        filled += width
    return pages


def _count_characters(columns: Sequence[Column]) -> int:
    """The width of columns, by their widest cells."""
    width = 0
    for column in columns:
        longest = max(len(cell.text) for cell in column.cells)
        width += longest + 2
    return width


def _write_tabular(columns: list[Column], rows: int) -> str:
    alignment = "".join("r" if column.numeric else "l" for column in columns)
    titles = [_latex_title(column) for column in columns]
    lines = [
        rf"\sbox0{{\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(titles) + r" \\",
        r"\midrule",
    ]
    for index in range(rows):
        cells = [_latex_cell(column.cells[index]) for column in columns]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}%", LATEX_FIT]
    return "\n".join(lines)


def _escape_latex(text: str) -> str:
    words = " ".join(text.split())
    escaped = "".join(LATEX.get(character, character) for character in words)
    return escaped.encode("ascii", "replace").decode()


def _latex_title(column: Column) -> str:
    """A heading, in two lines where it is long: most are longer than their figures."""
    words = re.split(" (?![↑↓])", column.title)  # an arrow stays with its word
    if len(words) == 1 or len(column.title) < SHORT_TITLE:
        return _escape_latex(column.title)
    middle = len(column.title) / 2
    firsts = [" ".join(words[:count]) for count in range(1, len(words))]
    first = min(firsts, key=lambda text: abs(len(text) - middle))
    second = column.title.removeprefix(first).strip()
    side = "r" if column.numeric else "l"
    return rf"\shortstack[{side}]{{{_escape_latex(first)}\\{_escape_latex(second)}}}"


def _latex_cell(cell: Cell) -> str:
    text = _escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text
