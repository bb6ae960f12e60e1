"""LaTeX tables: any text is escaped, and they compile, alone and in a paper."""

import csv
import io
import subprocess
from pathlib import Path

import pytest
from records import METHODS, comparison, load, program, record, write
from typesetting import typeset

from tuneoff.report import latex, write_tables
from tuneoff.report.latex_text import ACCENTS, COMMANDS, SYMBOLS, escape_latex, list_unset

NASTY = "=cmd|' & % $ # _ {x} ~ ^ \\ <b>é漢</b> `*"


def nasty(tmp_path: Path) -> Path:
    for seed in range(3):
        write(tmp_path / f"a{seed}", record(NASTY, seed, note="|\n|"))
        write(tmp_path / f"b{seed}", record(NASTY, seed, note="x]("))
        write(tmp_path / f"d{seed}", record("[half] *", seed))
        write(tmp_path / f"e{seed}", record("*[half]", seed))
        write(tmp_path / f"c{seed}", record(METHODS[0], seed, status="failed"))
    return tmp_path


def test_text_is_escaped(tmp_path):
    made = load(nasty(tmp_path))
    table = write_tables.write_markdown(made, {}).split("\n\n")[1].splitlines()
    assert len(table) == 2 + 5 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<" not in "".join(table)
    named = write_tables.escape_markdown("a ~~b~~ costs $1, &lt; $2")
    assert named == r"a \~\~b\~\~ costs \$1, &amp;lt; \$2"
    assert any(
        line["method"].startswith("'=cmd")
        for line in csv.DictReader(io.StringIO(write_tables.write_csv(made)))
    )


# What the report writes itself, symbols, accents, Greek of both cases, and look-alikes of two other characters.
SETTABLE = "† ‡ … ∞ × ≥ ≤ ± − Δ ↑ ↓ ² ₁ – — “q” «a» ∑ → éüñçåőšřŵīß øłæœ ïÎ αβγςω ΓΩΑ ?` ''"
UNSETTABLE = "日本 привет ąđ 🙂"


def test_characters_keep_apart_and_what_cannot_be_set_is_known():
    assert escape_latex("†…∞×≥≤") == r"$\dagger$\ldots{}$\infty$$\times$$\geq$$\leq$"
    assert escape_latex("é e\u0301 ï ß α Σ Ünïcode") == (
        '\\\'{e} \\\'{e} \\"{\\i} \\ss{} $\\alpha$ $\\Sigma$ \\"{U}n\\"{\\i}code'
    )
    # What ends a table's line would take either for its own.
    assert escape_latex("[a] b") == "{}[a] b" and escape_latex("* a") == "{}* a"
    assert list_unset(escape_latex(SETTABLE)) == []
    names = ["日本", "日語", "日?", "??", "a--b", "a–b", "''", "”", *SETTABLE.split()]
    assert len({escape_latex(name) for name in names}) == len(set(names))
    assert list_unset(escape_latex(UNSETTABLE)) == sorted(set(UNSETTABLE) - {" "})
    assert escape_latex(SETTABLE + UNSETTABLE).isascii()


def test_every_command_compiles(tmp_path):
    """Without a package, in the encoding that pdfLaTeX has by itself."""
    lines = [SETTABLE, UNSETTABLE, " ".join(COMMANDS), " ".join(SYMBOLS)]
    lines += [f"a{mark} i{mark} B{mark}" for mark in ACCENTS]
    text = "\n\n".join(escape_latex(line) for line in lines)
    document, _ = typeset(tmp_path, "text", text, alone=False)
    shown = subprocess.run(
        [program("pdftotext"), document, "-"], capture_output=True, text=True
    ).stdout
    for expected in ("†", "∞", "×", "≥", "ß", "α", "U+65E5"):
        assert expected in shown


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
