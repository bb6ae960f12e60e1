"""Columns, order and names: chosen once, for LaTeX, Markdown, page and charts alike; the summary fits a column."""

import argparse
import re

import pytest
from records import METHODS, comparison, load, record, write
from typesetting import typeset

from tuneoff.report import cli, latex, write_tables
from tuneoff.report.charts import make_charts
from tuneoff.report.presentation import Presentation, parse_names, split_words
from tuneoff.report.records import ReportError

NAMES = {"lora": "LoRA (r=8)", "full": "Full_& 100 %"}


@pytest.fixture
def made(tmp_path):
    return load(comparison(tmp_path, seeds=3), baseline="full")


def first_cells(table: str) -> list[str]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].strip("| ").replace("\\", "") for line in lines[1:]]


def test_names_and_order_hold_in_tables_and_charts_alike(made):
    verdicts = {row.method: p for row, p in zip(made[0].rows, made[0].verdicts[0].p, strict=True)}
    presentation = Presentation(order=["pissa", "lora"], names=NAMES)
    presentation.apply(made)
    assert [row.method for row in made[0].rows][:3] == ["pissa", "lora", "badam"]
    for row, p in zip(made[0].rows, made[0].verdicts[0].p, strict=True):
        assert verdicts[row.method] == pytest.approx(p, nan_ok=True)  # a verdict goes with its row
    markdown = write_tables.write_summary(made, presentation)
    assert first_cells(markdown)[:2] == ["pissa", "LoRA (r=8)"]
    for text in (latex.write_latex(made), latex.write_latex_summary(made, presentation)):
        rows = text.split("\\midrule")[1].strip().splitlines()
        assert rows[0].startswith("pissa &") and rows[1].startswith("LoRA (r=8) &")
        assert r"Full\_\& 100 \% & " in text
    labels = {}
    for chart in make_charts(made[0]):
        labels[chart.name] = str(chart.spec)
    for name in ("quality_memory", "quality_memory_wide", "curve_step", "memory_breakdown"):
        assert "LoRA (r=8)" in labels[name] and "'label': 'lora'" not in labels[name]


def test_columns_are_those_that_were_asked_for(made):
    presentation = Presentation(columns=["method", "tokens_per_second", "loss_test"])
    head = write_tables.write_summary(made, presentation).splitlines()[0]
    assert head.strip("| ").split(" | ") == ["Method", "Tokens/s", "Test loss"]
    text = latex.write_latex_summary(made, presentation)
    assert r"\begin{tabular}{lrr}" in text


def test_rows_stand_by_the_values_of_a_column(made):
    Presentation(order=["peak_train_gib"]).apply(made)
    peaks = [row.train_peak for row in made[0].rows]
    assert peaks[-1] is None and peaks[:-1] == sorted(peaks[:-1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"columns": ["los"]}, "--columns los: must be one of"),
        ({"order": ["lora", "nothing"]}, "--order nothing: must be one of"),
        ({"order": ["nothing"]}, "--order nothing: must be one of"),
        ({"names": {"nothing": "x"}}, "--names nothing: must be one of"),
    ],
)
def test_what_is_not_there_is_refused_in_a_line(made, given, said):
    with pytest.raises(ReportError, match=said):
        Presentation(**given).apply(made)


@pytest.mark.parametrize("word", ["lora", "=x", "lora= "])
def test_a_name_is_written_with_an_equals_sign(word):
    with pytest.raises(ReportError, match="METHOD=NAME"):
        parse_names([word])
    assert parse_names(["lora=LoRA (r=8)"]) == {"lora": "LoRA (r=8)"}
    assert split_words(" a, b,,") == ["a", "b"] and split_words(None) == []


def test_a_row_with_settings_can_be_named_and_ordered(tmp_path, capsys):
    for rank in (8, 16):
        for seed in range(3):
            content = record("lora", seed, lora_rank=rank, lora_alpha=2 * rank)
            write(tmp_path / f"{rank}{seed}", content)
            write(tmp_path / f"full{seed}", record("full", seed))
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    row = "lora lora_alpha=32, lora_rank=16"
    given = ["--order", f"{row},full", "--names", f"{row}=LoRA (r=16)", "full=Full (a=b)"]
    arguments = [str(tmp_path), *given, "--out", str(tmp_path / "out")]
    assert cli.run(parser.parse_args(arguments)) == 0, capsys.readouterr().err
    markdown = (tmp_path / "out" / "summary.md").read_text()
    assert first_cells(markdown) == ["LoRA (r=16)", "Full (a=b)", "lora"]


@pytest.mark.parametrize("names", [{"lora": "X", "full": "X"}, {"lora": "full"}])
def test_no_two_rows_get_one_name(made, names):
    with pytest.raises(ReportError, match="--names: .* and .* would both be called"):
        Presentation(names=names).apply(made)
    with pytest.raises(ReportError, match="lora is named twice"):
        parse_names(["lora=A", "lora=B"])


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a paper"])
def test_the_summary_compiles_and_fits_one_column(made, tmp_path, alone):
    """Shrunk to no less than seven points, of eight."""
    presentation = Presentation(names=NAMES)
    presentation.apply(made)
    text = latex.write_latex_summary(made, presentation)
    assert r"\begin{table}[t]" in text and "out of memory 3" in text
    # TeX says how wide the table was before it was fitted.
    shown = text.replace(r"\ifdim\wd0", r"\typeout{WIDE \the\wd0 OF \the\columnwidth}\ifdim\wd0")
    _, said = typeset(tmp_path, "summary", shown, alone)
    wide, column = map(float, re.search(r"WIDE ([\d.]+)ptOF ([\d.]+)pt", said).groups())
    assert alone or 8 * min(1, column / wide) >= 7
    assert METHODS[0] in text
