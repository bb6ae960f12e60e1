"""Reading: nothing on disk may cost more than a line."""

import copy
import json
from pathlib import Path

import pytest
from records import METHODS, load, prediction, record, write

from tuneoff.record import Recorder
from tuneoff.report import cli
from tuneoff.report.page import render_page
from tuneoff.report.reading import read_records
from tuneoff.report.records import ReportError


def everything(folder: Path) -> None:
    """All that a report makes of records, but for files: it must not raise."""
    from tuneoff.report import latex, write_tables
    from tuneoff.report.charts import make_charts

    made = load(folder)
    drawn = {each.name: make_charts(each) for each in made}
    assert (
        write_tables.write_markdown(made, {})
        and write_tables.write_csv(made)
        and latex.write_latex(made)
    )
    assert render_page(made, drawn, {}, [], "title").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not readable"),
        ('{"schema_version": 1, "method": "lo', "not readable"),
        (b"\xff\xfe\x00{", "not readable"),
        ("[" * 100_000, "not readable"),
        ("[1, 2]", "not an object"),
        ('{"name": "foreign"}', "schema_version is None"),
        ('{"schema_version": 2, "method": "a", "config": {}, "seed": 0}', "schema_version is 2"),
        ('{"schema_version": 1, "method": 3, "config": {}, "seed": 0}', "no method"),
        ('{"schema_version": 1, "method": "a", "config": [], "seed": 0}', "no config"),
        ('{"schema_version": 1, "method": "a", "config": {}, "seed": "0"}', "whole number"),
        ('{"schema_version": 1, "method": "a", "config": {}, "seed": 0}', "no status"),
    ],
)
def test_a_file_that_is_no_record_is_skipped_with_a_line(tmp_path, content, reason):
    write(tmp_path / "good", record(METHODS[0]))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    runs, skipped = read_records([tmp_path])
    assert [run.method for run in runs] == [METHODS[0]]
    (line,) = skipped
    assert "bad/result.json" in line and reason in line and "\n" not in line


def test_a_half_written_result_leaves_an_interrupted_run(tmp_path):
    folder = write(tmp_path / "run", record(METHODS[0]))
    (folder / "result.json").write_text((folder / "result.json").read_text()[:900])
    (run,), (line,) = read_records([tmp_path])
    assert run.status == "interrupted" and "result.json" in line


def test_a_running_run_has_the_curve_of_its_metrics(tmp_path):
    content = record(METHODS[0], points=5)
    recorder = Recorder(tmp_path / "run")
    recorder.start({key: content[key] for key in ("method", "seed", "config", "provenance")})
    for line in content["curve"]:
        recorder.log(line)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    (run,), _ = read_records([tmp_path])
    assert run.status == "running" and len(run.curve.train) == 5
    recorder.close()
    (run,), _ = read_records([tmp_path])
    assert run.status == "interrupted"


def test_an_unfinished_run_keeps_the_evaluation_before_the_first_step(tmp_path):
    content = record(METHODS[0], points=5)
    recorder = Recorder(tmp_path / "run")
    recorder.start({key: content[key] for key in ("method", "seed", "config", "provenance")})
    for line in content["curve"]:
        recorder.log(line)
    recorder.close()
    (run,), _ = read_records([tmp_path])
    assert run.curve.validation[0].tolist() == [0, 4.0]


def test_a_thinned_curve_ends_at_the_measured_training_time(tmp_path):
    write(tmp_path, record(METHODS[0], steps=1000, points=40))
    (run,), _ = read_records([tmp_path])
    seconds = run.curve.train[:, 2]
    assert seconds[-1] == pytest.approx(run.number("throughput.train_seconds"))
    assert (seconds[1:] > seconds[:-1]).all()
    assert seconds[0] == pytest.approx(seconds[-1] / 1000, rel=1e-6)


def test_order_does_not_depend_on_the_command_line(tmp_path):
    for index, method in enumerate(METHODS[:3]):
        write(tmp_path / f"{9 - index}", record(method))
    parts = sorted(tmp_path.iterdir())
    assert [run.folder for run in read_records(parts)[0]] == [
        run.folder for run in read_records(parts[::-1])[0]
    ]


def test_the_same_folder_twice_is_read_once(tmp_path):
    write(tmp_path / "a", record(METHODS[0]))
    assert len(read_records([tmp_path, tmp_path / "a"])[0]) == 1


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ReportError, match="no such folder"):
        read_records([tmp_path / "nowhere"])


ODD = [None, "text", 7, -1.5, [], [1, "a", None], {}, {"a": {"b": 1}}, True, float("nan"), 10**400]


def places(content: dict, prefix: tuple = ()) -> list[tuple]:
    found = []
    for key, value in content.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += places(value, (*prefix, key))
    return found


# Every sixth in the normal run: each reads a record for every one of its keys.
ODD_CASES = [
    pytest.param(odd, marks=pytest.mark.slow if index % 6 else (), id=str(odd)[:12])
    for index, odd in enumerate(ODD)
]


@pytest.mark.parametrize("odd", ODD_CASES)
def test_any_value_of_a_record_may_be_odd(tmp_path, odd):
    """Every key in turn, at every depth, in one folder of many records: read, or skipped with a line."""
    whole = record(METHODS[0], points=4)
    whole["metrics"] = {"exact_match": 0.5}
    whole["tuning"] = {
        "method_cost": {"jobs": 5, "tokens": 10, "seconds": 1.0},
        "space": {"lr": [1e-3]},
        "edge": True,
    }
    for index, place in enumerate(places(whole)):
        content = copy.deepcopy(whole)
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        write(tmp_path / str(index), content)
    for line in (
        odd,
        {"step": odd, "loss": odd},
        {"step": 1, "loss": odd, "tokens": odd, "step_seconds": 1},
    ):
        write(
            tmp_path / f"curve{str(line)[:40].replace('/', '')}",
            {**whole, "curve": [line, *whole["curve"]]},
        )
    foreseen = prediction(METHODS[0])
    foreseen |= {"peak_gib": odd, "breakdown_gib": {"parameters": odd}}
    write(tmp_path / "prediction", foreseen, "prediction.json")
    everything(tmp_path)


def test_text_that_is_no_unicode_can_be_written(tmp_path, capsys):
    content = record(METHODS[0], note="\ud800 half a character")
    write(tmp_path, content)
    write(tmp_path / "b", content)
    assert cli.run(cli_options(tmp_path)) == 0
    assert json.loads((tmp_path / "result.json").read_text())["config"]["note"].startswith("\ud800")


def cli_options(folder: Path, *more: str):
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args([str(folder), *more])
