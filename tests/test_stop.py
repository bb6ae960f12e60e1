"""SIGTERM, SIGHUP and Ctrl-C are heard wherever a run is: at once, or at the end of the step that it is in."""

import os
import shlex
import signal

import pytest
from helpers import trajectory, wait_for

from tuneoff.distributed.stop import StopRequest, StopSignal, call_on_stop_signals
from tuneoff.record import read_json
from tuneoff.training import checkpoint, evaluation, model_setup, setup, step_under_way
from tuneoff.training import run as training_run

OPTIONS = ["method=lora", "max_steps=4", "eval_every=2", "lora_dropout=0.1"]


def signal_at(
    monkeypatch, module, name: str, call: int, numbers=(signal.SIGTERM, signal.SIGTERM)
) -> None:
    """Let this process get signals at a call of a function: SIGTERM twice, as schedulers have it."""
    function = getattr(module, name)
    calls = []

    def signalled(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            for number in numbers:
                signal.raise_signal(number)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, signalled)


def test_the_exception_comes_once_and_waits_for_what_is_deferred():
    request = StopRequest()
    done = []
    with call_on_stop_signals(request.set):
        with pytest.raises(StopSignal), request.deferred():
            signal.raise_signal(signal.SIGTERM)
            done.append("the step")
        signal.raise_signal(signal.SIGTERM)
    assert done == ["the step"] and request.is_set()


def test_a_failure_of_what_is_deferred_is_not_hidden():
    request = StopRequest()
    with pytest.raises(ValueError, match="no good"), request.deferred():
        request.set()
        raise ValueError("no good")


def test_ranks_ask_and_are_told_nothing():
    request = StopRequest()
    request.hold()
    with request.deferred():
        request.set()
    assert request.is_set()


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with call_on_stop_signals(StopRequest().set):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("module", "name"), [(model_setup, "load_model"), (setup, "load_tokenizer")]
)
def test_while_everything_is_loaded(run, monkeypatch, tmp_path, module, name):
    signal_at(monkeypatch, module, name, call=1)
    result = run(*OPTIONS)
    assert result["status"] == "interrupted"
    assert checkpoint.find_checkpoints(tmp_path / "run" / "checkpoints") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "call", "step"),
    [
        (step_under_way, "train_step", 3, 3),  # within the third step, which ends
        (evaluation, "summed_loss", 1, 0),  # within the evaluation before the first
    ],
)
def test_a_resume_ends_as_if_nothing_had_stopped_it(
    run, monkeypatch, tmp_path, module, name, call, step
):
    run(*OPTIONS, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(patch, module, name, call)
        result = run(*OPTIONS)
    assert result["status"] == "interrupted", result["error"]
    saved = checkpoint.find_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in saved] == ([f"step_{step:08}"] if step else [])
    result = run(*OPTIONS, "resume=auto")
    assert result["status"] == "finished"
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")


def test_within_a_later_evaluation_and_the_export(run, monkeypatch, tmp_path):
    options = [*OPTIONS, "save_model=true"]
    with monkeypatch.context() as patch:
        evaluations = []
        evaluate = evaluation.Evaluation.mean_loss

        def until(self, rows):
            evaluations.append(rows)
            if len(evaluations) == 2:
                signal.raise_signal(signal.SIGTERM)
            return evaluate(self, rows)

        patch.setattr(evaluation.Evaluation, "mean_loss", until)
        result = run(*options)
    assert "after step 2" in result["error"]["message"]
    with monkeypatch.context() as patch:
        signal_at(patch, training_run, "export_model", call=1)
        result = run(*options, "resume=auto")
    assert "after the last step" in result["error"]["message"]
    assert not (tmp_path / "run" / "model").exists()
    result = run(*options, "resume=auto")
    assert result["status"] == "finished" and result["resumed_at_step"] == 4
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()
    assert read_json(tmp_path / "run" / "result.json")["status"] == "finished"


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(run, monkeypatch, tmp_path, capfd):
    run(*OPTIONS, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(patch, step_under_way, "train_step", 3, [signal.SIGINT])
        result = run(*OPTIONS)
    assert result["status"] == "interrupted"
    saved = tmp_path / "run" / "checkpoints" / "step_00000003"
    message = result["error"]["message"]
    assert message.startswith(f"stopped by Ctrl-C after step 3; saved in {saved}; ")
    assert saved.is_dir() and "Ctrl-C again ends at once" in capfd.readouterr().err
    assert run(*OPTIONS, "resume=auto")["status"] == "finished"
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")


def test_a_second_ctrl_c_ends_at_once(run, monkeypatch, tmp_path):
    signal_at(monkeypatch, step_under_way, "train_step", 3, [signal.SIGINT, signal.SIGINT])
    result = run(*OPTIONS)
    assert result["status"] == "interrupted"
    assert result["error"]["message"] == "ended by a second Ctrl-C"
    assert checkpoint.find_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_ctrl_c_after_a_scheduler_asked_ends_at_once():
    request = StopRequest()
    request.hold()
    request.set(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="second"):
        request.set(signal.SIGINT)


def test_a_launcher_that_passes_ctrl_c_on_is_no_second_one():
    request = StopRequest(relayed=True)
    request.hold()
    request.set(signal.SIGINT)
    request.set(signal.SIGINT)
    assert request.is_set() and request.name == "Ctrl-C"


@pytest.mark.slow
def test_the_command_that_a_stopped_run_prints_goes_on(launch, tmp_path):
    """Typed in a terminal: Ctrl-C, and then what its last line says."""
    process = launch("method=lora", "max_steps=200", 'tags=["two words"]')
    metrics = "outputs/lora/*/metrics.jsonl"
    wait_for(lambda: any('"step": 3,' in path.read_text() for path in tmp_path.glob(metrics)))
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "stopped by Ctrl-C after step" in err.splitlines()[-1], err
    command = err.partition("go on with: ")[2].rpartition(" (")[0]
    words = shlex.split(command)
    assert words[0] == "python" and words[-1] == "resume=auto"
    resumed = launch(*words[2:], "max_steps=200")
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    [folder] = tmp_path.glob("outputs/lora/*")
    assert read_json(folder / "result.json")["resumed_at_step"] >= 3
