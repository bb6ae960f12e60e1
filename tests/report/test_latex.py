"""LaTeX tables: any text is escaped, and they compile, alone and in a paper."""

import csv
import io
import subprocess
from pathlib import Path

import pytest
from records import METHODS, comparison, load, program, record, write
from typesetting import typeset

from tuneoff.report import latex, write_tables

NASTY = "=cmd|' & % $ # _ {x} ~ ^ \\ <b>é漢</b> `*"


def nasty(tmp_path: Path) -> Path:
    for seed in range(3):
        write(tmp_path / f"a{seed}", record(NASTY, seed, note="|\n|"))
        write(tmp_path / f"b{seed}", record(NASTY, seed, note="x]("))
        write(tmp_path / f"c{seed}", record(METHODS[0], seed, status="failed"))
    return tmp_path


def test_text_is_escaped(tmp_path):
    made = load(nasty(tmp_path))
    table = write_tables.write_markdown(made, {}).split("\n\n")[1].splitlines()
    assert len(table) == 2 + 3 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<" not in "".join(table)
    assert any(
        line["method"].startswith("'=cmd")
        for line in csv.DictReader(io.StringIO(write_tables.write_csv(made)))
    )


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a paper"])
@pytest.mark.parametrize("fill", [comparison, nasty], ids=["comparison", "nasty"])
def test_latex_compiles(tmp_path, fill, alone):
    out = tmp_path / "tex"
    out.mkdir()
    made = load(fill(tmp_path / "records" if fill is comparison else tmp_path))
    document, _ = typeset(out, "table", latex.write_latex(made), alone)
    shown = subprocess.run(
        [program("pdftotext"), "-layout", document, "-"],
        capture_output=True,
        text=True,
    )
    assert METHODS[0] in shown.stdout and ("After." in shown.stdout) != alone
