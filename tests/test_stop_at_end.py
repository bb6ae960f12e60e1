"""Signals where no step is taken: as the record is written, before a run begins; and the pause of `stop_after`."""

import shlex
import signal
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
from helpers import call_work, finish
from omegaconf import OmegaConf

from tuneoff.cli import single_run
from tuneoff.cli.callback import PreflightCheck
from tuneoff.cli.main import EXIT_INTERRUPTED, one_line
from tuneoff.distributed.stop import StopRequest, StopSignal, interrupt_on_stop_signals
from tuneoff.jobs.failures import RunFailed
from tuneoff.record import RESULT, read_json, recorder, write_json
from tuneoff.sweeps.progress import name_status
from tuneoff.training.run_state import make_resuming
from tuneoff.training.trackers import Trackers

OPTIONS = ["method=lora", "max_steps=2"]
COMMAND = ["python", "train.py", "method=lora"]


# ---------------------------------------------------------------- while the record is written
def signal_at_the_result(monkeypatch, *numbers) -> None:
    write_json = recorder.write_json

    def signalled(path, content):
        if path.name == RESULT:
            for number in numbers:
                signal.raise_signal(number)
        write_json(path, content)

    monkeypatch.setattr(recorder, "write_json", signalled)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_result_is_written_loses_nothing(
    run, monkeypatch, tmp_path, capfd, number
):
    signal_at_the_result(monkeypatch, number)
    assert run(*OPTIONS)["status"] == "finished"
    assert read_json(tmp_path / "run" / RESULT)["status"] == "finished"
    said = "the run has ended, and its record is written; Ctrl-C again ends at once"
    assert (said in capfd.readouterr().err) == (number == signal.SIGINT)


def test_a_second_ctrl_c_ends_at_once(run, monkeypatch, tmp_path):
    signal_at_the_result(monkeypatch, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="second"):
        run(*OPTIONS)
    assert not (tmp_path / "run" / RESULT).exists()


def test_a_signal_while_trackers_finish_leaves_the_result_to_be_shown(run, monkeypatch):
    finish = Trackers.finish

    def signalled(self, result):
        signal.raise_signal(signal.SIGTERM)
        finish(self, result)

    monkeypatch.setattr(Trackers, "finish", signalled)
    assert run(*OPTIONS)["status"] == "finished"


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_ranks_that_have_written_a_result_before_they_end_are_shown(monkeypatch, tmp_path, status):
    work = call_work(tmp_path, print)
    object.__setattr__(work, "experiment", SimpleNamespace(grace_seconds=1.0))

    def stopped(work, limits):
        write_json(tmp_path / RESULT, {"status": status})
        raise KeyboardInterrupt

    monkeypatch.setattr(single_run.supervisor, "run_supervised", stopped)
    assert single_run.run_supervised(work) == {"status": status}


def test_an_earlier_result_is_not_shown_for_ranks_that_wrote_none(monkeypatch, tmp_path):
    work = call_work(tmp_path, print)
    object.__setattr__(work, "experiment", SimpleNamespace(grace_seconds=1.0))
    write_json(tmp_path / RESULT, {"status": "interrupted"})

    def stopped(work, limits):
        raise KeyboardInterrupt

    monkeypatch.setattr(single_run.supervisor, "run_supervised", stopped)
    with pytest.raises(KeyboardInterrupt):
        single_run.run_supervised(work)


# ---------------------------------------------------------------- before a run begins
def start_up(monkeypatch, main) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *OPTIONS])
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return one_line(main)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_that_a_library_makes_of_a_signal_is_an_interruption(monkeypatch, capsys):
    def compose():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise SystemError("returned a result with an exception set")

    assert start_up(monkeypatch, compose) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_an_error_that_a_library_makes_of_ctrl_c_is_an_interruption(monkeypatch, capsys):
    def compose():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    assert start_up(monkeypatch, compose) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_what_a_stopped_run_says_is_printed(monkeypatch, capsys):
    def main():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise RunFailed("interrupted: saved; go on with: this")

    assert start_up(monkeypatch, main) == 1
    assert capsys.readouterr().err == "error: interrupted: saved; go on with: this\n"


@pytest.mark.parametrize("moment", ["on_run_start", "on_multirun_start", "on_job_start"])
def test_a_signal_that_was_swallowed_is_heard_before_anything_begins(moment):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(StopSignal, match="SIGTERM"), interrupt_on_stop_signals():
            with suppress(StopSignal):
                signal.raise_signal(signal.SIGTERM)
            getattr(PreflightCheck(), moment)(OmegaConf.create({}))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_whoever_asks_is_told_of_a_signal():
    request = StopRequest()
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(StopSignal), interrupt_on_stop_signals(request):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert request.is_set()


# ---------------------------------------------------------------- the pause of `stop_after`
@pytest.mark.parametrize(
    ("written", "paused", "resuming"),
    [
        (["stop_after=0.5"], True, ["resume=auto"]),
        (["stop_after=0.5"], False, ["stop_after=0.5", "resume=auto"]),
        ([], True, ["stop_after=null", "resume=auto"]),
        (["stop_after=0.5", "resume=here"], True, ["resume=here"]),
        (["rerun=true", "stop_after=0.5", "resume=never"], True, ["resume=auto"]),
        (["rerun=true"], False, ["resume=auto"]),
    ],
)
def test_the_command_that_goes_on(written, paused, resuming):
    assert make_resuming([*COMMAND, *written], paused) == [*COMMAND, *resuming]


@pytest.mark.parametrize(
    ("status", "paused_after", "named"),
    [
        ("interrupted", 0.5, "paused"),
        ("interrupted", None, "interrupted"),
        ("failed", 0.5, "failed"),
    ],
)
def test_no_other_run_is_paused(tmp_path, status, paused_after, named):
    write_json(tmp_path / RESULT, {"status": status, "paused_after": paused_after})
    assert name_status(status, tmp_path) == named


def test_a_paused_run_has_not_failed(command, tmp_path):
    done = command("method=lora", "max_steps=4", "stop_after=0.5", "hydra.run.dir=here")
    assert done.returncode == 0, done.stderr
    assert "paused" in done.stdout and "error" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("paused after step 2, as stop_after says; saved in ")
    assert read_json(tmp_path / "here" / RESULT)["status"] == "interrupted"


@pytest.mark.slow
def test_the_command_that_a_paused_run_prints_goes_on(launch, tmp_path):
    """Typed in a terminal, and then what its last line says."""
    done = finish(launch("method=lora", "max_steps=4", "stop_after=0.5", "hydra.run.dir=here"))
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stderr.splitlines()[-1].partition("go on with: ")[2])
    assert words[0] == "python" and words[-1] == "resume=auto"
    assert "stop_after=0.5" not in words
    again = finish(launch(*words[2:]))
    assert again.returncode == 0, again.stderr
    result = read_json(tmp_path / "here" / RESULT)
    assert (result["status"], result["resumed_at_step"]) == ("finished", 2)
