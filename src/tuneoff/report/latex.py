"""Tables as LaTeX: all columns over the width of a page, and a summary in one column of a paper."""

import re
from collections.abc import Sequence

from tuneoff.report.answer_costs import describe_failures
from tuneoff.report.caption import write_caption, write_short_caption
from tuneoff.report.cells import Cell
from tuneoff.report.compare import Comparison
from tuneoff.report.latex_text import escape_latex
from tuneoff.report.presentation import Presentation
from tuneoff.report.table import Column, make_columns

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
LATEX_NARROW_TABLE = LATEX_TABLE.replace("table*", "table").replace("4pt", "2.5pt")
# Shrunk only where it is wider than the page, or than the column.
LATEX_FIT = r"\ifdim\wd0>WIDTH\resizebox{WIDTH}{!}{\usebox0}\else\usebox0\fi"
TEXT_WIDTH = r"\textwidth"
COLUMN_WIDTH = r"\columnwidth"
# Of \footnotesize that a column of a paper is wide, shrunk to seven points.
NARROW_CHARACTERS = 64
# What a summary in one column leaves to the table of all columns; which runs failed stands in its caption.
LEFT_OUT = ("lr", "trainable", "outcome")

Page = list[Column]


def write_latex(comparisons: Sequence[Comparison]) -> str:
    """Return a `table*` a comparison, booktabs, in as many parts below each other as keep it legible on a page."""
    parts = [LATEX_HEAD]
    for comparison in comparisons:
        pages = _split_into_pages(make_columns(comparison))
        count = len(comparison.rows)
        tabulars = [_write_tabular(page, count, TEXT_WIDTH) for page in pages]
        lines = [
            LATEX_TABLE,
            rf"\caption{{{escape_latex(write_caption(comparison))}}}",
            rf"\label{{tab:tuneoff-{comparison.name}}}",
            "\n\\par\\medskip\n".join(tabulars),
            r"\end{table*}",
            "",
        ]
        parts.append("\n".join(lines))
    return "\n".join([*parts, r"\tuneoffend", ""])


def write_latex_summary(comparisons: Sequence[Comparison], presentation: Presentation) -> str:
    """Return the largest comparison as a `table` of one column: what was asked for, else what decides and costs."""
    comparison = comparisons[0]
    columns = presentation.choose_columns(comparison)
    caption = write_short_caption(comparison)
    if not presentation.columns:
        columns = _fit_column([column for column in columns if column.key not in LEFT_OUT])
        failures = list(describe_failures(comparison))
        caption = " ".join([caption, *failures])
    lines = [
        LATEX_HEAD,
        LATEX_NARROW_TABLE,
        rf"\caption{{{escape_latex(caption)}}}",
        r"\label{tab:tuneoff-summary}",
        _write_tabular(columns, len(comparison.rows), COLUMN_WIDTH),
        r"\end{table}",
        r"\tuneoffend",
        "",
    ]
    return "\n".join(lines)


def _fit_column(columns: Sequence[Column]) -> list[Column]:
    """The first columns that are legible side by side in one column of a paper; the method and a measure at least."""
    fitting: list[Column] = []
    for column in columns:
        if len(fitting) > 1 and _count_characters([*fitting, column]) > NARROW_CHARACTERS:
            break
        fitting.append(column)
    return fitting


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


def _fill_pages(
    together: Sequence[Page],
    widths: Sequence[int],
    limit: int,
) -> list[Page]:
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


def _write_tabular(columns: Sequence[Column], rows: int, width: str) -> str:
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
    lines += [r"\bottomrule", r"\end{tabular}}%", LATEX_FIT.replace("WIDTH", width)]
    return "\n".join(lines)


def _latex_title(column: Column) -> str:
    """A heading, in two lines where it is long: most are longer than their figures."""
    words = re.split(" (?![↑↓])", column.title)  # an arrow stays with its word
    if len(words) == 1 or len(column.title) < SHORT_TITLE:
        return escape_latex(column.title)
    middle = len(column.title) / 2
    breaks = range(1, len(words))
    firsts = [" ".join(words[:place]) for place in breaks]
    first = min(firsts, key=lambda text: abs(len(text) - middle))
    second = column.title.removeprefix(first).strip()
    side = "r" if column.numeric else "l"
    return rf"\shortstack[{side}]{{{escape_latex(first)}\\{escape_latex(second)}}}"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text
