"""Jobs that end without a record of it: what is said of them, and that fail_fast ends their sweep."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from tuneoff import predict, record
from tuneoff.jobs import failures
from tuneoff.jobs.processes import RankProcess
from tuneoff.jobs.work import PredictWork, TrainWork
from tuneoff.sweeps import job

ERROR = {"type": "ValueError", "message": "no good", "traceback": ""}


def hydra_config(folder) -> OmegaConf:
    return OmegaConf.create(
        {
            "runtime": {"output_dir": str(folder), "cwd": str(folder)},
            "sweep": {"dir": str(folder)},
            "job": {"num": 0},
            "overrides": {"task": ["method=lora"]},
            "sweeper": {"jobs": 2},
            "launcher": {"_target_": "BasicLauncher"},
        }
    )


@pytest.fixture
def run_failing_job(compose_config, monkeypatch, tmp_path):
    """A sweep's job whose process fails at once."""
    monkeypatch.chdir(tmp_path)

    def fail(work, limits, log_file):
        work.record_failure("failed", ERROR, 1.0)

    monkeypatch.setattr(job.supervisor, "run_supervised", fail)
    return lambda *words: job.run_job(compose_config(*words), hydra_config(tmp_path))


@pytest.mark.parametrize("words", [["task=predict"], ["rerun=true"]])
def test_fail_fast_ends_a_sweep_whatever_its_jobs_leave(run_failing_job, tmp_path, capsys, words):
    if words == ["rerun=true"]:
        record.write_json(tmp_path / record.RESULT, {"status": "finished", "loss": {"final": 1.0}})
    with pytest.raises(failures.JobFailed, match="ValueError: no good"):
        run_failing_job(*words)
    assert capsys.readouterr().err.startswith("[1/2] failed: method=lora")
    with pytest.raises(job.SweepStopped, match="^failed: ValueError: no good"):
        run_failing_job(*words, "fail_fast=true")
    assert "loss" not in capsys.readouterr().err


def test_a_run_that_the_user_stops_over_an_earlier_result_is_no_failure(tmp_path):
    """A JobFailed took the place of the Ctrl-C, and the sweep went on with its next job."""
    record.write_json(tmp_path / record.RESULT, {"status": "finished"})
    work = TrainWork(None, None, tmp_path, {})
    work.record_failure("interrupted", ERROR, 1.0)
    assert record.read_json(tmp_path / record.RESULT) == {"status": "finished"}
    with pytest.raises(failures.JobFailed):
        work.record_failure("failed", ERROR, 1.0)
    PredictWork(None, None, tmp_path, {}).record_failure("interrupted", ERROR, 1.0)


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [(-9, "SIGKILL"), (-35, "signal 35"), (1, "exit code 1"), (None, "exit code None")],
)
def test_every_end_has_a_name(exit_code, said):
    ended = RankProcess(SimpleNamespace(exitcode=exit_code), None)
    assert ended.describe_end() == said


@pytest.mark.parametrize("found", [{}, {"largest_batch": {"gib": 1.0, "batch_size": 3}}])
def test_the_largest_batch_that_was_looked_for_is_kept(settings, tmp_path, monkeypatch, found):
    prediction = {"needed_gib": 2.0, "peak_gib": 1.5, "breakdown_gib": {}, "timeline": [], **found}
    monkeypatch.setattr(predict, "predict", lambda experiment, method: prediction)
    experiment, method, config = settings("method=lora", "skip_if_over_gib=1", "gib=1")
    result = TrainWork(experiment, method, tmp_path, {"config": config}).run()
    assert result["status"] == "predicted_out_of_memory"
    del prediction["timeline"]
    assert result["prediction"] == prediction
