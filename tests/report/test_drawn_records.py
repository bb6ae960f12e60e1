"""Damaged records that nobody thought of: a line for each, a report of the others, and nothing that was there changes."""

import argparse
import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from drawn import assert_printable_line, damaged, drawn
from hypothesis import given
from hypothesis import strategies as st
from records import prediction, record, write

from tuneoff.record import conclude_dead_run, read_metrics, read_status
from tuneoff.report import cli, write_report
from tuneoff.sweeps.tuning import read_tunings

CONTENTS = {
    "result.json": record("lora"),
    "run.json": {
        key: record("lora")[key] for key in ("schema_version", "method", "seed", "config")
    },
    "prediction.json": prediction("lora"),
    "metrics.jsonl": record("lora")["curve"][-1],
}
DAMAGE = st.sampled_from(sorted(CONTENTS)).flatmap(
    lambda name: st.tuples(st.just(name), damaged(CONTENTS[name]))
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Charts are made, but not drawn: that takes seconds, and has tests of its own."""
    monkeypatch.setattr(write_report, "write_chart", lambda chart, folder, suffix="": [])


@contextlib.contextmanager
def folder_with(name: str, content: bytes):
    """Four runs of two methods, one with a damaged file; it may be the only file that the run has."""
    with TemporaryDirectory() as place:
        root = Path(place)
        for method in ("lora", "full"):
            for seed in (0, 1):
                write(root / method / str(seed), record(method, seed))
        folder = root / "lora" / "2"
        if name == "metrics.jsonl":
            write(folder, CONTENTS["run.json"], "run.json")
        elif name == "result.json":
            write(folder, CONTENTS[name])
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        yield root, folder


def files_below(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
@drawn(15)
@given(DAMAGE)
def test_a_damaged_record_costs_a_line_and_changes_nothing(damage):
    with folder_with(*damage) as (root, _), TemporaryDirectory() as out:
        before = files_below(root)
        parser = argparse.ArgumentParser()
        cli.add_arguments(parser)
        options = parser.parse_args([str(root), "--out", out])
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            assert cli.run(options) == 0
        for line in errors.getvalue().splitlines():
            assert_printable_line(line)
        assert files_below(root) == before
        table = (Path(out) / "table.md").read_text()
        assert "lora" in table and "full" in table


@drawn(80)
@given(DAMAGE)
def test_a_sweep_reads_a_damaged_record_as_none(damage):
    with folder_with(*damage) as (root, folder):
        status = read_status(folder)
        assert status is None or isinstance(status, str)
        for line in read_metrics(folder):
            assert isinstance(line["step"], int)
        before = files_below(root)
        for tuning in read_tunings(str(root)):
            assert tuning.cost["jobs"] and isinstance(tuning.best, dict)
            tuning.describe_extension()
        assert files_below(root) == before
        result = conclude_dead_run(folder, {"method": "lora"}, "killed", {}, 1.0)
        assert result["status"] == read_status(folder) == "killed"
