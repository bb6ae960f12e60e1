"""A step is read while the next one runs: on a device made of a thread that computes beside the host, in order.

What a run leaves is the same as without, to the last bit, however it ends.
"""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import Killed, apart, kill_inside, trajectory

from tuneoff import record
from tuneoff.training import step_under_way
from tuneoff.training import trainer as trainer_module
from tuneoff.training.failures import Diverged, NotANumber
from tuneoff.training.step import StepResult
from tuneoff.training.step_under_way import Reading
from tuneoff.training.trainer import Trainer

WORDS = ("method=full", "max_steps=8", "eval_every=3", "save_every=4", "keep_checkpoints=9")


@pytest.fixture
def ahead(monkeypatch):
    """Let steps be read late; returns the numbers of the steps in the order in which they were launched and read."""
    events: list[tuple[str, int]] = []
    launch, finish = trainer_module.launch_step, Trainer.finish_step

    def note_launch(parts, batches, step):
        events.append(("launch", step))
        return launch(parts, batches, step)

    def note_finish(self):
        if self._under_way is not None:
            events.append(("read", self._under_way.prepared.step))
        finish(self)

    monkeypatch.setattr(step_under_way, "computes_beside_host", lambda device: True)
    monkeypatch.setattr(trainer_module, "launch_step", note_launch)
    monkeypatch.setattr(Trainer, "finish_step", note_finish)
    return events


def test_a_step_is_read_when_the_next_one_was_launched(new_run, ahead, tmp_path):
    """But for those before an evaluation, a checkpoint, and the end, which need all that was trained."""
    new_run(*WORDS, folder=tmp_path).fit()
    order = {event: place for place, event in enumerate(ahead)}
    late = [step for step in range(7) if order["read", step] > order["launch", step + 1]]
    assert late == [0, 1, 4, 6]  # 3 and 6 steps are evaluated, 4 and 8 saved
    steps = [line["step"] for line in record.read_metrics(tmp_path)]
    assert steps == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8]


@pytest.mark.parametrize(
    "words",
    [
        ("method=lora", "lora_dropout=0.2", "gradient_accumulation_steps=2", "batch_size=2"),
        ("method=galore", "galore_rank=8", "galore_update_interval=3"),
        ("method=badam", "badam_switch_interval=3", "epochs=0.6", "max_steps=null"),
    ],
)
def test_what_is_read_late_is_the_same(new_run, monkeypatch, tmp_path, words):
    found = []
    for late in (False, True):
        monkeypatch.setattr(step_under_way, "computes_beside_host", lambda device, late=late: late)
        training = new_run(*WORDS, *words, folder=tmp_path / str(late))
        training.fit()
        training.parts.recorder.close()
        weights = dict(training.parts.model.named_parameters())
        found.append((trajectory(tmp_path / str(late)), weights, training.parts.throughput.tokens))
    assert [apart(one, other) for one, other in zip(*found, strict=True)] == [0, 0, 0]


@pytest.mark.slow
def test_a_run_that_is_killed_ahead_resumes_to_the_same_bits(new_run, ahead, tmp_path):
    """Killed in step 7, whose predecessor is not written down; the checkpoint of step 4 is whole."""
    finals = []
    for name, resumes in (("whole", ["never"]), ("killed", ["never", "auto"])):
        for resume in resumes:
            training = new_run(*WORDS, f"resume={resume}", folder=tmp_path / name)
            if name == "killed" and resume == "never":
                kill_inside(training, lambda training=training: training.trainer.step == 7)
                with pytest.raises(Killed):
                    training.fit()
            else:
                training.fit()
            training.parts.recorder.close()
        weights = dict(training.parts.model.named_parameters())
        finals.append((trajectory(tmp_path / name), weights))
    assert [apart(one, other) for one, other in zip(*finals, strict=True)] == [0, 0]


@pytest.mark.parametrize(("poisoned", "error"), [(0, NotANumber), (4, Diverged)])
def test_divergence_is_noticed_late_and_told_of_the_right_step(
    new_run, ahead, monkeypatch, tmp_path, poisoned, error
):
    steps = iter(range(100))
    real = step_under_way.train_step

    def poison(*arguments):
        result = real(*arguments)
        loss = result.loss * (math.nan if next(steps) == poisoned else 1)
        return StepResult(loss, result.gradient_norm)

    monkeypatch.setattr(step_under_way, "train_step", poison)
    training = new_run("method=full", "max_steps=8", folder=tmp_path)
    with pytest.raises(error) as caught:
        training.fit()
    if error is Diverged:
        assert f"diverged at step {poisoned + 1}:" in str(caught.value)
    assert ("launch", poisoned + 1) in ahead, "it ran on for a step"
    lines = [line["step"] for line in record.read_metrics(tmp_path) if "loss" in line]
    assert lines == list(range(1, poisoned + 2))


def test_a_step_that_fails_loses_none_before_it(new_run, ahead, monkeypatch, tmp_path):
    steps = iter(range(100))
    real = step_under_way.train_step

    def fail(*arguments):
        if next(steps) == 3:
            raise MemoryError("no room")
        return real(*arguments)

    monkeypatch.setattr(step_under_way, "train_step", fail)
    training = new_run("method=full", "max_steps=8", folder=tmp_path)
    with pytest.raises(MemoryError):
        training.fit()
    lines = [line["step"] for line in record.read_metrics(tmp_path) if "loss" in line]
    assert lines == [1, 2, 3]


def test_a_budget_of_seconds_ends_a_step_later(new_run, ahead, tmp_path):
    """Each step's seconds are counted once, also that of the last step, which began before the budget's end was known."""
    training = new_run("method=full", "max_steps=null", "max_seconds=0.3", folder=tmp_path)
    training.fit()
    order = {event: place for place, event in enumerate(ahead)}
    last = training.trainer.step - 1
    assert all(order["read", step] > order["launch", step + 1] for step in range(last))
    lines = [line for line in record.read_metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, last + 2))
    seconds = [line["step_seconds"] for line in lines]
    assert training.parts.schedule.seconds == pytest.approx(sum(seconds), abs=1e-3)
    assert sum(seconds[:-2]) < 0.3 <= sum(seconds[:-1]) + 1e-3


def test_a_late_reading_waits_for_its_own_step_alone():
    """On a device made of a thread: the reading of the first step does not wait for the second."""
    gate = threading.Event()
    with ThreadPoolExecutor(1) as device:

        class Kernel:
            def __init__(self, work):
                self.future = device.submit(work)

            def item(self):
                return self.future.result(timeout=10)

        first = Reading(_result(Kernel(lambda: 1.5)))
        second = Reading(_result(Kernel(lambda: gate.wait(10) and 2.5)))
        assert first.read() == (1.5, 1.5)
        gate.set()
        assert second.read() == (2.5, 2.5)


def _result(kernel):
    """A step's result whose numbers come from a kernel; its device is none of torch's."""
    kernel.device = type("Device", (), {"type": "thread"})
    return StepResult(kernel, kernel)
