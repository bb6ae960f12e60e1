"""Typesets a LaTeX table by pdflatex: as a document of its own, or within a paper of two columns."""

import subprocess
from pathlib import Path

from records import program

PAPER = (
    r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}"
    r"\begin{document}Before. \input{%s} After.\end{document}"
)


def typeset(folder: Path, name: str, text: str, alone: bool) -> tuple[Path, str]:
    """Compile a table, and hold that it fits: returns the PDF, and what TeX said."""
    (folder / f"{name}.tex").write_text(text)
    (folder / "paper.tex").write_text(PAPER % name)
    document = name if alone else "paper"
    done = subprocess.run(
        [program("pdflatex"), "-interaction=nonstopmode", "-halt-on-error", document],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    return folder / f"{document}.pdf", done.stdout
