"""A run that takes over a folder, beside one that goes on with what is there: what stays, and what is refused."""

import fcntl
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.record import Recorder, ResumePoint, read_json, write_json

OPTIONS = ["method=lora", "max_steps=2"]


def run_command(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "train.py", "tracker=none", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def leave_run(folder: Path, saved: bool = True, predicted: str = "before") -> None:
    """Fill a folder with what a run has left."""
    config = {"save_model": saved}
    for name in (record.RUN, record.RESULT):
        write_json(folder / name, {"identity": "before", "config": config, "status": "finished"})
    write_json(folder / record.PREDICTION, {"identity": predicted})
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")


def take_over(folder: Path, identity: str = "now", resumed: ResumePoint | None = None) -> Recorder:
    recorder = Recorder(folder)
    recorder.start({"identity": identity}, resumed)
    return recorder


# ---------------------------------------------------------------- what an earlier run has left
def test_a_rerun_replaces_the_model_and_the_prediction_once_all_is_loaded(tmp_path):
    leave_run(tmp_path)
    recorder = take_over(tmp_path)
    assert (tmp_path / "model" / "config.json").exists()
    assert read_json(tmp_path / record.PREDICTION)
    recorder.describe({})
    recorder.close()
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / record.PREDICTION).exists()


def test_a_prediction_of_the_same_settings_stays(tmp_path):
    leave_run(tmp_path, predicted="now")
    recorder = take_over(tmp_path)
    recorder.describe({})
    recorder.close()
    assert (tmp_path / record.PREDICTION).exists()


def test_a_folder_that_no_run_has_saved_is_left_alone(tmp_path):
    leave_run(tmp_path, saved=False)
    recorder = take_over(tmp_path)
    recorder.describe({})
    recorder.close()
    assert (tmp_path / "model" / "config.json").exists()


def test_a_resume_keeps_both(tmp_path):
    leave_run(tmp_path)
    recorder = take_over(tmp_path, resumed=ResumePoint(1, 0, {}))
    recorder.describe({})
    recorder.close()
    assert (tmp_path / "model").exists() and (tmp_path / record.PREDICTION).exists()


def test_no_model_of_an_earlier_run_stands_beside_a_new_record(run, tmp_path):
    run(*OPTIONS, "save_model=true")
    assert (tmp_path / "run" / "model").is_dir()
    result = run(*OPTIONS, "rerun=true")
    assert result["status"] == "finished" and not (tmp_path / "run" / "model").exists()


# ---------------------------------------------------------------- the sweep that a run is a job of
def test_a_job_that_is_gone_on_with_alone_stays_its_sweeps(run, tmp_path):
    folder = tmp_path / "run"
    run(*OPTIONS, "save_every=1")
    (folder / record.RESULT).unlink()
    facts = {
        "sweep": "compare",
        "varied": ["seed"],
        "planned_seeds": [0, 1],
        "tuning": {"best": {"lr": "0.01"}},
        "lr_source": "tuned",
    }
    write_json(folder / record.RUN, {**read_json(folder / record.RUN), **facts})
    result = run(*OPTIONS, f"resume={folder}")
    assert result["status"] == "finished"
    assert {key: result[key] for key in facts} == facts
    began = read_json(folder / record.RUN)
    assert {key: began[key] for key in facts} == facts


def test_a_sweep_says_itself_what_its_jobs_are(tmp_path):
    write_json(tmp_path / record.RUN, {"sweep": "first", "planned_seeds": [0]})
    start = {"sweep": "second", "planned_seeds": [0, 1]}
    assert record.keep_sweep(start, tmp_path) == start
    assert record.keep_sweep({"sweep": None}, tmp_path / "none") == {"sweep": None}


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize("resume", ["auto", "{folder}"])
def test_a_run_is_not_begun_anew_and_gone_on_with(settings, tmp_path, resume):
    leave_run(tmp_path)
    word = resume.format(folder=tmp_path)
    with pytest.raises(ConfigError, match=f"^rerun=true: begins the run anew, and resume={word}"):
        settings("rerun=true", f"resume={word}")
    settings("rerun=true")
    settings("rerun=false", f"resume={word}")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("hydra.run.dir={folder}", "hydra.run.dir={folder}: another process is training there"),
        (
            "hydra.run.dir={folder} rerun=true",
            "hydra.run.dir={folder}: another process is training there",
        ),
        (
            "hydra.run.dir={folder} resume=auto",
            "resume=auto: another process is training in {folder}",
        ),
        ("resume={folder}", "resume={folder}: another process is training in {folder}"),
    ],
)
def test_a_folder_in_use_is_refused_before_anything_is_written(tmp_path, words, line):
    folder = tmp_path / "busy"
    folder.mkdir()
    write_json(folder / record.RUN, {"identity": "12345678"})
    with (folder / record.LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = {path.name for path in folder.iterdir()}
        done = run_command(tmp_path, *shlex.split(words.format(folder=folder)))
    assert done.returncode == 2
    assert done.stderr == f"error: {line.format(folder=folder)}\n"
    assert {path.name for path in folder.iterdir()} == before


def test_what_only_the_loaded_model_shows_leaves_an_earlier_run_as_it_was(tmp_path, debug_model):
    """Hydra has written its settings by then."""
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    leave_run(folder)
    for name in ("config", "overrides"):
        (folder / ".hydra" / f"{name}.yaml").write_text(f"{name}: before\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = [f"model.path={debug_model}", "lora_target=[nothing]", "max_steps=1", "rerun=true"]
    done = run_command(tmp_path, "method=lora", *words, f"hydra.run.dir={folder}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: lora_target=nothing: no such linear")
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    after.pop(folder / record.LOCK, None)
    assert after == before


def test_a_sweep_is_not_told_never_to_go_on(tmp_path):
    done = run_command(tmp_path, "-m", "seed=0,1", "resume=never")
    assert done.returncode == 2
    expected = "error: resume=never: is for a single run; in a sweep rerun=true begins jobs anew\n"
    assert done.stderr == expected
    assert not list(tmp_path.iterdir())
