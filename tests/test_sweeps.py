"""Sweeps through the real command line: nothing stops one, and nothing is done twice."""

import math
import os
import re
import shutil
from unittest.mock import Mock

import pytest
from helpers import is_of_the_machine, python_path
from sweeping import counted, results, results_list

from tuneoff import record
from tuneoff.jobs.work import TrainWork
from tuneoff.record import read_json, write_json
from tuneoff.sweeps.job_costs import read_cost
from tuneoff.sweeps.progress import JobRow, describe_unfinished, format_sweep_table
from tuneoff.sweeps.rung_losses import lacks_loss_at, read_loss_at

MISTYPED = [3, "merged", ["a"], {"final": "x"}, {"final": [1]}, {"warnings": 3}, {"warnings": [3]}]


@pytest.mark.parametrize(
    "key", ["loss", "throughput", "facts", "curve", "error", "paused_after", "budget", "kept"]
)
def test_a_record_of_other_types_costs_no_other_job_its_line(tmp_path, key):
    """The table of a whole sweep ended in a traceback, and a plan that counted on the record, too."""
    for value in MISTYPED:
        write_json(tmp_path / "result.json", {"status": "finished", "curve": [value], key: value})
        rows = [JobRow("lr=1", tmp_path), JobRow("lr=2", tmp_path / "other")]
        assert "lr=2" in format_sweep_table(rows)
        describe_unfinished(rows)
        assert read_cost(tmp_path, 1.0) is None
        assert read_loss_at(tmp_path, 0.5) == math.inf
        assert not lacks_loss_at(tmp_path, 0.5)
        assert TrainWork.read_loss(tmp_path) is None


@pytest.mark.slow
def test_a_failed_job_stops_nothing_and_is_tried_again_alone(sweep, tmp_path):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import atexit, os, sys\natexit.register(lambda: open(f'{os.environ[\"IMPORTED\"]}/{os.getppid()}', 'w')"
        ".write(' '.join(sys.modules)))\n"
    )
    grid = ["-m", "method=full,freeze", "seed=0,1"]
    # Only the loaded model shows that it has no 99 layers.
    words = [
        *grid,
        "hydra.sweeper.grids=[{method: full}, {method: freeze, freeze_trainable_layers: '1,99'}]",
    ]
    code, out, err = sweep(*words, PYTHONPATH=python_path(hook), IMPORTED=str(hook))
    assert code == 1 and counted(out) == {"failed": 2, "finished": 4, "skipped": 0}, out + err
    assert err.splitlines()[-1] == "error: 2 of 6 jobs failed; the same command tries them again"
    assert len(re.findall(r"^\[\d/6\] (?:finished|failed): method=.*  [\d.]+ s", err, re.M)) == 6
    assert "min" in err or re.search(r"\(about \d+ s left\)", err)
    failed = [line for line in out.splitlines() if line.startswith("failed")]
    assert all(
        "ConfigError: freeze_trainable_layers=99: this model has" in line for line in failed[:2]
    )
    imported = (hook / str(os.getpid())).read_text().split()
    assert "tuneoff.jobs.supervisor" in imported and not {"torch", "transformers", "peft"} & {
        *imported
    }

    found = results(tmp_path / "sweep")
    assert (
        len({read_json(path)["identity"] for path in (tmp_path / "sweep").rglob("run.json")}) == 6
    )
    assert found["full 1"]["planned_seeds"] == [0, 1] and found["full 1"]["sweep"] == "sweep"
    folder = next((tmp_path / "sweep" / "full").iterdir())
    log = (folder / "run.log").read_text()
    assert "an example, its trained part" in log and "an example" not in err

    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "full").rglob("result.json")
    }
    code, out, err = sweep(*words)
    assert code == 1 and counted(out) == {"failed": 2, "finished": 0, "skipped": 4}, out
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    # Another value is another job; rerun=true does the old one again.
    code, out, err = sweep("-m", "method=full", "seed=0", "max_steps=4,5", "rerun=true")
    assert code == 0 and counted(out) == {"failed": 0, "finished": 2, "skipped": 0}
    again = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "full").rglob("result.json")
    }
    assert len(again) == 3 and len(again.items() & stamps.items()) == 1


def test_a_sweep_fails_as_long_as_a_job_of_it_does(tmp_path):
    for name in ("finished", "diverged", "killed"):
        record.conclude_dead_run(
            tmp_path / name,
            {"identity": name},
            name,
            {"type": "E", "message": "m", "traceback": ""},
            1.0,
        )
    rows = [
        JobRow(path.name, path, before=path.name != "killed") for path in sorted(tmp_path.iterdir())
    ]
    assert describe_unfinished(rows) == (
        "1 of 3 jobs failed; the same command tries them again; "
        "1 of 3 ran out of memory or diverged; "
        "the same command with rerun=true and the settings of diverged does that job again"
    )
    assert describe_unfinished(rows[1:2]) is None
    rows[2].rerun = True
    assert describe_unfinished(rows[2:]) == (
        "1 of 1 jobs failed; the same command without rerun=true tries them again"
    )
    many = [JobRow(f"lr={number}", tmp_path / "diverged", before=True) for number in range(4)]
    assert describe_unfinished(many) == (
        "4 of 4 ran out of memory or diverged; the same command with rerun=true and the settings of "
        "one of lr=0 | lr=1 | lr=2 | … does that job again"
    )


@pytest.mark.slow
def test_a_job_that_cannot_begin_keeps_what_is_there_and_is_done_again_alone(
    sweep, debug_model, tmp_path
):
    """Over a finished result, and over a run that was cut off and whose checkpoint is torn."""
    model = tmp_path / "model"
    shutil.copytree(debug_model, model)
    words = ["-m", "method=lora", "seed=0,1", "save_every=2", f"model.path={model}", "max_steps=2"]
    assert sweep(*words)[0] == 0
    paths = {read_json(path)["seed"]: path for path in (tmp_path / "sweep").rglob("result.json")}
    before = paths[1].read_bytes()
    folder = paths[0].parent
    paths[0].unlink()
    state = next(folder.rglob("state.pt"))
    whole_state = state.read_bytes()
    state.write_bytes(whole_state[:100])
    code, out, err = sweep(*words)
    assert code == 1 and counted(out) == {"failed": 1, "finished": 0, "skipped": 1}, out + err
    assert err.splitlines()[-1] == "error: 1 of 2 jobs failed; the same command tries them again"
    failed = read_json(paths[0])
    assert failed["status"] == "failed" and "checkpoints can be read" in failed["error"]["message"]
    assert failed["method"] == "lora" and failed["config"]["seed"] == 0
    assert failed["config"]["max_steps"] == 2 and paths[1].read_bytes() == before
    state.write_bytes(whole_state)
    code, out, err = sweep(*words)
    assert code == 0 and counted(out) == {"failed": 0, "finished": 1, "skipped": 1}, out + err
    (model / "model.safetensors").write_bytes(b"torn")
    code, out, err = sweep(*words[:2], "seed=1", *words[3:], "rerun=true")
    assert code == 1 and paths[1].read_bytes() == before
    assert "failed  method=lora seed=1" in out and "keeps its earlier result" in out
    assert err.splitlines()[-1].startswith(
        "error: 1 of 1 jobs failed over an earlier result, which is kept; the same command with "
        "rerun=true and the settings of method=lora seed=1"
    )


@pytest.mark.slow
def test_predictions_leave_results_alone(sweep, tmp_path):
    assert sweep("-m", "method=full")[0] == 0
    result = next((tmp_path / "sweep").rglob("result.json"))
    stamp = result.stat().st_mtime_ns
    code, out, err = sweep("-m", "method=full", "task=predict", "gib=1")
    assert code == 0 and re.search(
        r"finished  .*fits 1 GiB, largest batch +\d+ +needs +\d\.\d\d GiB", out
    ), out + err
    assert result.stat().st_mtime_ns == stamp and (result.parent / "prediction.json").exists()


@pytest.mark.slow
def test_jobs_that_would_not_fit_are_not_started(sweep, tmp_path):
    code, out, _err = sweep(
        "-m", "method=full", "batch_size=4,256", "max_steps=1", "skip_if_over_gib=1.05"
    )
    assert code == 0 and counted(out) == {
        "failed": 0,
        "finished": 1,
        "skipped": 0,
        "predicted out of memory": 1,
    }, out
    results = {
        result["config"]["batch_size"]: result for result in results_list(tmp_path / "sweep")
    }
    assert results[256]["prediction"]["needed_gib"] > 1.05 >= results[4]["prediction"]["needed_gib"]
    assert results[256]["throughput"]["tokens_seen"] == 0 < results[4]["throughput"]["tokens_seen"]


@pytest.mark.slow
def test_fail_fast_stops_at_the_first_failure(sweep, tmp_path):
    code, out, err = sweep(
        "-m", "method=freeze", "freeze_trainable_layers=1,99,2", "fail_fast=true"
    )
    assert code == 1 and counted(out) == {
        "failed": 1,
        "not started": 1,
        "finished": 1,
        "skipped": 0,
    }, out + err
    assert err.splitlines()[-1].startswith("error: fail_fast=true: failed:")


@pytest.mark.slow
def test_no_secret_is_written(sweep, tmp_path):
    """Neither by Hydra, nor in a record, nor by a tracker, nor in what the user sees."""
    secret = "s3cr3tOfMine"
    code, out, err = sweep(
        "-m",
        "method=full",
        "max_steps=1",
        "tracker=wandb",
        f"tags=[https://me:{secret}@host]",
        f"+hydra.job.env_set.MY_VARIABLE={secret}",
        "seed=0,1",
    )
    assert code == 0, out + err
    assert secret not in out + err
    folder = tmp_path / "sweep"
    assert out.splitlines()[-3:] == [
        f"W&B, upload: wandb sync {folder}/*/*/wandb/offline-run-*",
        f"results: {folder}",
        f"report: python -m tuneoff report {folder}",
    ]
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in paths}
    assert {"multirun.yaml", "hydra.yaml", "run.json"} <= names
    assert any(path.suffix == ".wandb" for path in paths)  # which holds the command line, too
    assert [path for path in paths if secret.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "content", ['{"status": "???"}', '{"status": "failed"}', '{"status": "failed", "error": 3}']
)
def test_a_damaged_record_is_a_failed_job_that_is_done_again(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    row = JobRow("seed=1", tmp_path)
    assert row.outcome == "failed" and "result.json cannot be read" in row.describe()
    finished = JobRow("seed=2", tmp_path / "other", error=None)
    hint = "1 of 2 jobs failed; the same command tries them again"
    assert describe_unfinished([row, finished]) == hint
    assert not TrainWork.is_done(tmp_path, Mock(rerun=False))


@pytest.mark.slow
def test_equal_jobs_are_equal_whatever_ran_before(sweep, tmp_path):
    """Bit-identical losses, and the same memory alone as after a job ten times its size."""
    common = ["-m", "method=full", "max_steps=4", "data.path=tuneoff:docstrings", "data.limit=200"]
    assert sweep(*common, "batch_size=4", f"hydra.sweep.dir={tmp_path / 'alone'}")[0] == 0
    code, out, err = sweep(*common, "batch_size=40,4", f"hydra.sweep.dir={tmp_path / 'after'}")
    assert code == 0, out + err
    alone = read_json(next((tmp_path / "alone").rglob("result.json")))
    after, big = sorted(
        results_list(tmp_path / "after"), key=lambda result: result["config"]["batch_size"]
    )
    assert after["identity"] == alone["identity"]

    def steps(result):
        return [
            {key: value for key, value in line.items() if not is_of_the_machine(key)}
            for line in result["curve"]
        ]

    assert steps(after) == steps(alone)
    peaks = [result["memory"]["peak_gib"] for result in (alone, after, big)]
    beyond = [peak["train"] - peak["load"] for peak in peaks]
    assert beyond[2] > 3 * beyond[0]
    for phase, peak in peaks[0].items():
        assert abs(peaks[1][phase] - peak) < 0.02 * peak, phase
