"""Records that nobody expects: figures of every size, text of every kind, links, secrets. A line each, no traceback."""

import copy
import csv
import io
import json
import os
import random
import warnings
from pathlib import Path

import pytest
from helpers import quick_of
from records import METHODS, comparison, load, prediction, record, write

from tuneoff.report import write_tables
from tuneoff.report.cells import difference_cell, estimate_cell, format_count, gib_cell
from tuneoff.report.charts import make_charts
from tuneoff.report.compare import make_comparisons
from tuneoff.report.page import render_page
from tuneoff.report.reading import read_records
from tuneoff.report.stats import Estimate, estimate_mean
from tuneoff.report.table import make_columns
from tuneoff.report.text import cut_name
from tuneoff.report.write_report import write_report

MOST_CELL = 120  # characters of a cell; more is no figure and no name


def report(folder: Path, out: Path) -> tuple[list, list[str]]:
    """The comparisons of a folder, written as a report with warnings as errors; and its lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs, skipped = read_records([folder])
        made = make_comparisons(runs, None, False)
        lines = write_report(made, {}, skipped, out, "title")
    return made, [*skipped, *lines]


def cells(made: list) -> list[str]:
    return [cell.text for each in made for column in make_columns(each) for cell in column.cells]


# ---------------------------------------------------------------- figures
def spoil(content: dict, loss: float) -> dict:
    """The record as a rate far too high leaves it."""
    content["loss"] = dict.fromkeys(content["loss"], loss)
    try:
        content["metrics"] = {"perplexity": 2.718281828459045**loss}
    except OverflowError:
        content["metrics"] = {"perplexity": None}
    for line in content["curve"]:
        for key in line.keys() & {"loss", "validation_loss"}:
            line[key] = loss
    return content


FAR_TOO_HIGH = (
    (357.0, 400.0, 434.0),
    (700.0, 709.0, 709.7),
    (1e15,) * 3,
    (1e154, 2e300, 1.7e308),
)


@pytest.mark.parametrize("losses", quick_of(FAR_TOO_HIGH, FAR_TOO_HIGH[1]))
def test_a_rate_far_too_high_does_not_end_the_report(tmp_path, losses):
    for seed, loss in enumerate(losses):
        write(tmp_path / "runs" / f"bad{seed}", spoil(record(METHODS[0], seed, lr=0.5), loss))
        for index, method in enumerate(METHODS[:2]):
            write(
                tmp_path / "runs" / f"{index}{seed}", spoil(record(method, seed), 3.0 + 0.1 * seed)
            )
    made, lines = report(tmp_path / "runs", tmp_path / "out")
    assert not [line for line in lines if "not drawn" in line]
    assert max(map(len, cells(made))) < MOST_CELL
    text = (tmp_path / "out" / "table.md").read_text().replace("\\", "")
    assert METHODS[1] in text and (losses[0] > 1e100 or "e" in text)
    gaps = "Points of learning curves that are not drawn, since they are no numbers or 1e+15 and more: "
    assert (gaps in text) == (losses[0] >= 1e15)


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (3.3e187, 1.4e188, "(0.3 ± 1.4)e188"),
        (1.234e12, 5.6e10, "(1.234 ± 0.056)e12"),
        (1.234e12, None, "1.234e12"),
        (-1.234e12, None, "−1.234e12"),
        (1.2e-9, 3.0e-10, "(1.20 ± 0.30)e-9"),
        (5e-324, None, "4.941e-324"),
        (1.7e308, float("inf"), "(1.700 ± ∞)e308"),
        (123_456_789.0, 1234.0, "123,456,789 ± 1,234"),
    ],
)
def test_figures_have_a_form_for_every_size(mean, half, text):
    assert estimate_cell(Estimate(mean, half, 3)).text == text


def test_a_difference_that_is_rounding_has_no_power_of_ten():
    base = Estimate(3.7, 0.1, 3)
    assert difference_cell(Estimate(1e-17, 2e-17, 3), base).text == "+0.000000 ± 0.000000"
    assert difference_cell(Estimate(1.2e-5, 2e-6, 3), base).text == "(+1.20 ± 0.20)e-5"


@pytest.mark.parametrize("value", [1e9, 1e15, 1e100, 1.7e308, -1e300])
def test_counts_and_memory_have_no_hundred_digits(value):
    assert len(format_count(value)) < 12 and len(gib_cell(value).text) < 12


def test_estimates_do_not_overflow_and_scaling_changes_no_digit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate_mean([1e308, 1.1e308, 1.2e308])
        assert found.mean == pytest.approx(1.1e308) and found.half == pytest.approx(
            0.2484e308, rel=1e-3
        )
        assert estimate_mean([-1.7e308, 0.0, 1.7e308]).half == float("inf")
    small = estimate_mean([2.93, 2.95, 2.90])
    assert (
        estimate_mean([2.93 * 2.0**900, 2.95 * 2.0**900, 2.90 * 2.0**900]).half
        == small.half * 2.0**900
    )


SIZES = [
    0,
    -1,
    5e-324,
    1e-300,
    1e15,
    1e16,
    1e100,
    1e154,
    1.7e308,
    -1.7e308,
    2**63,
    10**300,
    10**400,
]


def number_places(content, prefix: tuple = ()) -> list[tuple]:
    """Where a record holds numbers, but for its identity: the keys and places that lead there."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    found = []
    for key, value in items:
        if isinstance(value, dict | list):
            found += number_places(value, (*prefix, key))
        elif (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and key not in ("schema_version", "seed")
        ):
            found.append((*prefix, key))
    return found


@pytest.mark.parametrize("draw", quick_of((1, 2, 100, 102), 1))
def test_numbers_of_any_size_anywhere(tmp_path, draw):
    """Ten records with five numbers each that no run measures, beside good ones."""
    rng = random.Random(draw)
    comparison(tmp_path / "runs", seeds=2)
    for index in range(10):
        content = record(METHODS[index], index % 3, lr=10.0**-index, points=4)
        content["metrics"] = {"exact_match": 0.5, "perplexity": 20.0}
        content["tuning"] = {
            "method_cost": {"jobs": 5, "tokens": 10, "seconds": 1.0},
            "space": {"lr": [1e-3]},
        }
        for place in rng.sample(number_places(content), 5):
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = rng.choice(SIZES)
        write(tmp_path / "runs" / f"odd{index}", content)
    made, lines = report(tmp_path / "runs", tmp_path / "out")
    assert not lines, lines
    assert max(map(len, cells(made))) < MOST_CELL


# ---------------------------------------------------------------- text
TEXTS = [
    "a\x00b\x1b[31m\x08",
    "\ud800 half",
    "\udcff",
    "right\u202eleft",
    "two\nlines\r\n",
    "m" * 5000,
    " ",
    "=1+1",
    "\ufffe",
]


QUICK_TEXTS = (TEXTS[0], TEXTS[1], TEXTS[4])  # what a terminal obeys, half a letter, lines


@pytest.mark.parametrize("text", quick_of(TEXTS, *QUICK_TEXTS), ids=lambda text: ascii(text)[:16])
def test_text_of_any_kind_anywhere(tmp_path, text):
    """As method, setting, value, metric, phase, command, error, measure, hardware."""
    for seed in range(3):
        good = record(METHODS[0], seed)
        content = record(text, seed, **{text: seed, "note": text})
        content["metrics"] = {text: 0.5, "exact_match": 0.1 * seed}
        content["memory"]["peak_gib"][text] = 0.5
        content["memory"]["measure"] = text
        content["command"] = ["python", text]
        content["provenance"]["git"]["commit"] = text
        content["config"]["data"]["name"] = text
        write(tmp_path / "runs" / f"good{seed}", good)
        write(tmp_path / "runs" / f"odd{seed}", content)
    failed = record(METHODS[1], status="failed")
    failed["error"] = {"type": text, "message": text, "traceback": text}
    write(tmp_path / "runs" / "failed", failed)
    made, lines = report(tmp_path / "runs", tmp_path / "out")
    assert all("its method has no name" in line for line in lines), lines
    assert len(lines) == (6 if text == " " else 0)
    shown = cells(made)
    assert max(map(len, shown)) < 300 and not any(
        set("\n\r\x00\x1b\u202e") & set(cell) for cell in shown
    )
    for name in ("table.md", "table.csv", "table.tex", "report.html"):
        written = (tmp_path / "out" / name).read_text("utf-8")
        assert "\x00" not in written and "\x1b" not in written
    header, *rows = csv.reader(io.StringIO((tmp_path / "out" / "table.csv").read_text()))
    assert not any(name.startswith(("=", "+", "-", "@")) for name in header)
    assert len(set(header)) == len(header) and {len(row) for row in rows} == {len(header)}


def test_long_names_that_begin_alike_stay_apart_and_cost_little(tmp_path):
    long = ["m" * 5000 + str(index) for index in range(3)]
    for method in long:
        write(tmp_path / "runs" / method[-1], record(method))
    made, _ = report(tmp_path / "runs", tmp_path / "out")
    names = {row.method for row in made[0].rows}
    assert (
        len(names) == 3
        and max(map(len, names)) <= 80
        and len({cut_name(name) for name in long}) == 3
    )
    assert (tmp_path / "out" / "report.html").stat().st_size < 2_000_000


def test_a_metric_named_like_a_column_has_a_column_of_its_own(tmp_path):
    content = record(METHODS[0])
    content["metrics"] = {"outcome": 0.25, "method": 0.5, "comparison": 0.75}
    write(tmp_path, content)
    (line,) = csv.DictReader(io.StringIO(write_tables.write_csv(load(tmp_path))))
    assert (line["method"], line["outcome"], line["comparison"]) == (METHODS[0], "finished 1", "A")
    assert (line["metric_outcome"], line["metric_method"], line["metric_comparison"]) == (
        "0.25",
        "0.5",
        "0.75",
    )


def test_settings_that_a_file_name_cannot_tell_apart_have_a_chart_each(tmp_path):
    for index, value in enumerate((8, 16)):
        write(tmp_path / f"a{index}", record(METHODS[0], **{"rank.a": value, "rank a": 3}))
        write(tmp_path / f"b{index}", record(METHODS[0], **{"rank.a": 4, "rank a": value}))
    names = [chart.name for chart in make_charts(load(tmp_path)[0])]
    assert {"ablation_rank_a", "ablation_rank_a_2"} <= set(names) and len(set(names)) == len(names)


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("status", ["", "Finished", "done\nnow", ["finished"], {"a": 1}, 7, True])
def test_a_status_that_no_run_has_is_a_line(tmp_path, status):
    write(tmp_path / "good", record(METHODS[0]))
    odd = write(tmp_path / "odd", record(METHODS[1]) | {"status": status})
    (odd / "run.json").unlink()
    runs, (line,) = read_records([tmp_path])
    assert len(runs) == 1 and "which no run has" in line and "\n" not in line


@pytest.mark.parametrize("error", ["boom", 7, ["a"], True])
def test_an_error_that_is_no_object_is_shown_and_said(tmp_path, error):
    write(tmp_path / "odd", record(METHODS[1], status="failed") | {"error": error})
    (run,), (line,) = read_records([tmp_path])
    assert run.get("error.message") == str(error) and "its error is no object" in line
    page = render_page(load(tmp_path), {}, {}, [], "title")
    assert str(error) in page


def test_files_that_are_no_records_are_a_line_each(tmp_path):
    """A pipe, which would never end; a folder; one that is nested, one that is larger than any record."""
    good = write(tmp_path / "good", record(METHODS[0]))
    for name in ("pipe", "folder", "nested", "large", "metrics"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "result.json")
    (tmp_path / "folder" / "run.json").write_text("{")
    (tmp_path / "folder" / "result.json").mkdir()
    deep: dict = {}
    for _ in range(400):
        deep = {"a": deep}
    write(tmp_path / "nested", record(METHODS[0], deep=deep))
    (tmp_path / "nested" / "run.json").unlink()
    with (tmp_path / "large" / "result.json").open("wb") as file:
        file.truncate(65 * 2**20)
    (tmp_path / "metrics" / "run.json").write_text((good / "run.json").read_text())
    os.mkfifo(tmp_path / "metrics" / "metrics.jsonl")
    runs, lines = read_records([tmp_path])
    assert [run.status for run in runs] == ["finished", "interrupted"]
    for name, reason in (
        ("pipe", "not a file"),
        ("folder", "not a file"),
        ("nested", "nested"),
        ("large", "64 MiB"),
    ):
        assert any(f"/{name}/" in line and reason in line for line in lines), (name, lines)


# ---------------------------------------------------------------- links
def test_runs_behind_links_are_found_and_counted_once(tmp_path):
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    write(outputs / "own", record(METHODS[0]))
    write(elsewhere / "far", record(METHODS[1]))
    (outputs / "0link").symlink_to(elsewhere, target_is_directory=True)
    (outputs / "again").symlink_to(elsewhere / "far", target_is_directory=True)
    (outputs / "alias").symlink_to(outputs / "own", target_is_directory=True)
    (outputs / "circle").symlink_to(outputs, target_is_directory=True)
    (elsewhere / "back").symlink_to(outputs, target_is_directory=True)
    (outputs / "gone").symlink_to(tmp_path / "nowhere")
    runs, (line,) = read_records([outputs])
    assert sorted(run.method for run in runs) == METHODS[:2]
    assert runs[0].folder == str(outputs / "own") and "gone: skipped, a link to nothing" in line
    both, _ = read_records([outputs, elsewhere, outputs / "own"])
    assert len(both) == 2


def test_a_folder_that_cannot_be_read_is_a_line(tmp_path):
    write(tmp_path / "good", record(METHODS[0]))
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("root reads everything")
    try:
        runs, (line,) = read_records([tmp_path])
    finally:
        closed.chmod(0o700)
    assert len(runs) == 1 and "closed: skipped, Permission denied" in line


# ---------------------------------------------------------------- secrets
SECRET = "sw0rdf1shSw0rdf1sh"


def test_no_secret_of_a_record_is_written(tmp_path):
    """Of a record that an earlier version wrote: in its command, config, error, folder's name, row's name."""
    for index in range(2):
        key = f"{SECRET}{index}"
        content = record(
            METHODS[0], token=key, api={"wandb_api_key": key, "url": f"https://me:{key}@host/x"}
        )
        content["command"] += [f"hydra.job.env_set.WANDB_API_KEY={key}", "--password", key]
        content["error"] = {
            "type": "E",
            "message": f"token={key}",
            "traceback": f"GET https://me:{key}@host",
        }
        content["status"] = "failed"
        write(tmp_path / "runs" / f"hydra.job.env_set.WANDB_API_KEY={key}", content)
        foreseen = prediction(METHODS[1]) | {"command": [f"api_key={key}"]}
        write(tmp_path / "runs" / f"predicted{index}", foreseen, "prediction.json")
    (tmp_path / "runs" / f"password={SECRET}").mkdir()
    (tmp_path / "runs" / f"password={SECRET}" / "result.json").write_text("{")
    _, lines = report(tmp_path / "runs", tmp_path / "out")
    assert lines and not any(SECRET in line for line in lines)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_reading_changes_no_record(tmp_path):
    content = record(METHODS[0], token=SECRET)
    folder = write(tmp_path, copy.deepcopy(content))
    before = (folder / "result.json").read_bytes()
    read_records([tmp_path])
    assert (folder / "result.json").read_bytes() == before and json.loads(before) == content
