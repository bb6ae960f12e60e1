"""Writes tables as Markdown, CSV and LaTeX. Text from a record is escaped: it may hold anything."""

import csv
import io
import math
import re
from collections.abc import Sequence

from tuneoff.report.caption import caption
from tuneoff.report.compare import Comparison
from tuneoff.report.table import Cell, Column, columns

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
PAGE_CHARACTERS = (
    134  # of \footnotesize that an A4 page is wide, the space between two columns counted as two
)
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


# ---------------------------------------------------------------- Markdown
def markdown(comparisons: Sequence[Comparison], why: dict[str, list[str]]) -> str:
    """All tables, each with its caption; where there is more than one, what keeps them apart."""
    parts = [split_lines(comparisons, why)] if why else []
    for made in comparisons:
        heading = f"### Comparison {made.name}\n\n" if len(comparisons) > 1 else ""
        parts.append(f"{heading}{_md_table(columns(made))}\n\n{_md(caption(made))}")
    return "\n\n".join(parts) + "\n"


def summary(comparisons: Sequence[Comparison]) -> str:
    """The largest comparison in a table narrow enough for a README: what decides, what it costs, what failed."""
    made = comparisons[0]
    wanted = ["method", "setting", "lr"]
    for quality in made.qualities:
        wanted += [quality.key, f"{quality.key}_difference"]
    known = {column.key: column for column in columns(made) if not column.empty}
    wanted += ["tokens_per_second", "peak_train_gib", "trainable", "outcome"]
    found = [known[key] for key in wanted if key in known]
    return f"{_md_table(found)}\n\n{_md(caption(made))}\n"


def _md_table(found: Sequence[Column]) -> str:
    lines = [
        "| " + " | ".join(_md(column.title) for column in found) + " |",
        "|" + "|".join("--:" if column.numeric else ":--" for column in found) + "|",
    ]
    lines += [
        "| " + " | ".join(map(_md_cell, cells)) + " |"
        for cells in zip(*(column.cells for column in found), strict=True)
    ]
    return "\n".join(lines)


def split_lines(comparisons: Sequence[Comparison], why: dict[str, list[str]]) -> str:
    """A list of the fields that differ between comparisons, with their values."""
    lines = [
        f"The records cannot all be compared: {len(comparisons)} comparisons, which differ in",
        "",
    ]
    for name, values in why.items():
        shown = ", ".join(
            f"{value} ({made.name})" for value, made in zip(values, comparisons, strict=True)
        )
        lines.append(f"- {_md(name)}: {_md(shown)}")
    return "\n".join(lines)


def _md(text: str) -> str:
    text = " ".join(text.split())
    for character in "\\`*_[]|<":
        text = text.replace(character, "&lt;" if character == "<" else f"\\{character}")
    return text


def _md_cell(cell: Cell) -> str:
    return f"**{_md(cell.text)}**" if cell.bold else _md(cell.text)


# ---------------------------------------------------------------- CSV
def comma_separated(comparisons: Sequence[Comparison]) -> str:
    """One table of plain figures: a line a row, `comparison` first; a figure's interval and n beside it."""
    lines: list[dict[str, str]] = []
    for made in comparisons:
        found = columns(made)
        for index in range(len(made.rows)):
            line = {"comparison": made.name}
            for column in found:
                cell = column.cells[index]
                line.update(
                    {_key(column, suffix): _plain(value) for suffix, value in cell.figures.items()}
                )
                if column.key in {quality.key for quality in made.qualities}:
                    line[f"{column.key}_best"] = str(cell.bold).lower()
            line["outcome"] = made.rows[index].outcome
            lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _key(column: Column, suffix: str) -> str:
    return f"{column.key}_{suffix}" if suffix else column.key


def _plain(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.8g}" if isinstance(value, float) else str(value)
    # A spreadsheet would run text that begins like a formula.
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# ---------------------------------------------------------------- LaTeX
def latex(comparisons: Sequence[Comparison]) -> str:
    """A `table*` a comparison, booktabs, in as many parts below each other as keep it legible on a page."""
    parts = [LATEX_HEAD]
    for made in comparisons:
        parts.append(
            "\n".join(
                [
                    r"\begin{table*}[t]\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}",
                    rf"\caption{{{_tex(caption(made))}}}",
                    rf"\label{{tab:tuneoff-{made.name}}}",
                    "\n\\par\\medskip\n".join(
                        _tabular(part, len(made.rows)) for part in _pages(columns(made))
                    ),
                    r"\end{table*}",
                    "",
                ]
            )
        )
    return "\n".join([*parts, r"\tuneoffend", ""])


def _pages(found: Sequence[Column]) -> list[list[Column]]:
    """The columns in as few parts as are legible, of about the same width, each beginning with what names a row."""

    def width(part: Sequence[Column]) -> int:
        return sum(max(len(cell.text) for cell in column.cells) + 2 for column in part)

    names = [column for column in found if column.key in ("method", "setting")]
    together: list[list[Column]] = []  # a difference stays beside its measure
    for column in found[len(names) :]:
        if not column.key.endswith("_difference"):
            together.append([])
        together[-1].append(column)
    room = max(PAGE_CHARACTERS - width(names), 50)  # names that fill the page shrink with the rest

    def packed(limit: int) -> list[list[Column]]:
        pages: list[list[Column]] = [[]]
        for columns_of_one in together:
            if pages[-1] and width([*pages[-1], *columns_of_one]) > limit:
                pages.append([])
            pages[-1] += columns_of_one
        return pages

    fewest = len(packed(room))
    balanced = next(pages for limit in range(room + 1) if len(pages := packed(limit)) == fewest)
    return [[*names, *page] for page in balanced]


def _tabular(found: list[Column], rows: int) -> str:
    align = "".join("r" if column.numeric else "l" for column in found)
    lines = [" & ".join(_tex_title(column) for column in found) + r" \\", r"\midrule"]
    for index in range(rows):
        lines.append(" & ".join(_tex_cell(column.cells[index]) for column in found) + r" \\")
    body = "\n".join([r"\toprule", *lines, r"\bottomrule"])
    # Shrunk only where it is wider than the page.
    return (
        rf"\sbox0{{\begin{{tabular}}{{{align}}}" + "\n" + body + "\n" + r"\end{tabular}}%" + "\n"
        r"\ifdim\wd0>\textwidth\resizebox{\textwidth}{!}{\usebox0}\else\usebox0\fi"
    )


def _tex(text: str) -> str:
    shown = "".join(LATEX.get(character, character) for character in " ".join(text.split()))
    return shown.encode("ascii", "replace").decode()


def _tex_title(column: Column) -> str:
    """A heading, in two lines where it is long: most are longer than their figures."""
    words = re.split(" (?![↑↓])", column.title)  # an arrow stays with its word
    if len(words) == 1 or len(column.title) < 9:
        return _tex(column.title)
    first = min(
        range(1, len(words)),
        key=lambda count: abs(len(" ".join(words[:count])) - len(column.title) / 2),
    )
    side = "r" if column.numeric else "l"
    return (
        rf"\shortstack[{side}]{{{_tex(' '.join(words[:first]))}\\{_tex(' '.join(words[first:]))}}}"
    )


def _tex_cell(cell: Cell) -> str:
    return rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
