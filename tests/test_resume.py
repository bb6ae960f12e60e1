"""A run stopped at any moment and started again ends as the run that was never stopped, to the last bit."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import METHODS, QUICK, ROOT

from tuneoff import checkpoint, record
from tuneoff.record import Recorder
from tuneoff.trainer import Trainer

# Saved inside a BAdam block, between two projections; with dropout, and two micro-batches where a method allows it.
OPTIONS = ["max_steps=11", "save_every=2", "eval_every=4", "tracker=none"]


def options(method):
    if method == "galore_layerwise":
        return [f"method={method}", *OPTIONS, "galore_rank=8", "galore_update_interval=5"]
    own = {"galore": ["galore_rank=8", "galore_update_interval=5"], "badam": ["badam_switch_interval=3",
           "badam_switch_mode=random"], "badam_ratio": ["badam_switch_interval=4", "badam_update_ratio=0.2"],
           "lora": ["lora_dropout=0.2"]}.get(method, [])
    return [f"method={method}", *OPTIONS, "gradient_accumulation_steps=2", "batch_size=2", *own]


def trajectory(folder):
    """Everything a run measured that does not depend on the clock."""
    return [{key: value for key, value in line.items() if "seconds" not in key}
            for line in record.read_metrics(folder)]


class Killed(BaseException):
    """Stands for the moment of a SIGKILL: nothing after it runs."""


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_bit_identical(settings, tmp_path, method):
    """Stopped without warning after step 7: the checkpoint of step 6 is the newest."""
    finals = []
    for name, stop in (("whole", None), ("stopped", 7)):
        folder = tmp_path / name
        for resume in ("never", "auto") if stop else ("never",):
            experiment, chosen, config = settings(*options(method), f"resume={resume}")
            trainer = Trainer(experiment, chosen, Recorder(folder))
            trainer.load({"config": config})
            if stop and resume == "never":
                one_step = trainer._one_step

                def until(step, one_step=one_step, stop=stop):
                    if step == stop:
                        raise Killed
                    one_step(step)

                trainer._one_step = until
                with pytest.raises(Killed):
                    trainer.fit()
            else:
                assert trainer.step == (6 if stop else 0)
                trainer.fit()
            trainer.recorder.close()
        finals.append((trajectory(folder), {n: p.detach().clone() for n, p in trainer.model.named_parameters()}))
    assert finals[0][0] == finals[1][0]
    assert len([line for line in finals[0][0] if "loss" in line]) == 11
    for name, value in finals[0][1].items():
        assert torch.equal(value, finals[1][1][name]), name


def command(model, folder, *overrides):
    return [sys.executable, str(ROOT / "train.py"), *QUICK, f"model.path={model}", "model.name=debug", "max_steps=40",
            "save_every=3", "eval_every=5", "eval_batch_size=1", "resume=auto", f"hydra.run.dir={folder}", *overrides]


def launch(*arguments, **settings):
    return subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            **settings)


def wait_for(condition, process, limit=60):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit and process.poll() is None, process.stderr.read()
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "evaluation", "writing"])
def test_sigkill_at_any_moment(debug_model, tmp_path, moment):
    whole = launch(debug_model, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    folder = tmp_path / "killed"
    lines = folder / "metrics.jsonl"
    reached = {  # after the first checkpoint, so that there is something to go on from
        "training": lambda: lines.exists() and '"step": 8,' in lines.read_text(),
        "evaluation": lambda: lines.exists() and '"step": 10,' in lines.read_text(),
        "writing": lambda: list((folder / "checkpoints").glob(".step_0000000[6-9]*")) if folder.exists() else False}
    process = launch(debug_model, folder)
    wait_for(reached[moment], process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert record.status(folder) == "interrupted"
    again = launch(debug_model, folder)
    assert again.wait() == 0, again.stderr.read()
    assert trajectory(folder) == trajectory(tmp_path / "whole")
    assert json.loads((folder / "result.json").read_text())["resumed_at_step"] >= 3


@pytest.mark.slow
def test_sigterm_saves_and_ends_as_interrupted(debug_model, tmp_path):
    folder = tmp_path / "run"
    process = launch(debug_model, folder, "save_every=1000")
    lines = folder / "metrics.jsonl"
    wait_for(lambda: lines.exists() and '"step": 7,' in lines.read_text(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    assert "interrupted" in process.stderr.read().splitlines()[-1]
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "interrupted" and result["error"]["type"] == "Interrupted"
    assert checkpoint.newest(folder / "checkpoints").loop["step"] >= 7


def test_the_last_good_checkpoint_outlives_a_torn_write(tmp_path):
    tensors = {"weight": torch.ones(3)}
    for step in (2, 4, 6):
        checkpoint.save(tmp_path, step, tensors, {"x": torch.ones(1)}, {"a": 1}, keep=2)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step_00000004", "step_00000006"]
    with (tmp_path / "step_00000006" / "state.pt").open("r+b") as file:
        file.truncate(100)
    assert checkpoint.newest(tmp_path).loop["step"] == 4
    with (tmp_path / "step_00000004" / "model.safetensors").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(OSError, match="none of the 2 checkpoints can be read"):
        checkpoint.newest(tmp_path)


def test_a_checkpoint_holds_what_may_change_and_nothing_pickled(settings, tmp_path):
    experiment, chosen, config = settings("method=lora", "save_every=2")
    trainer = Trainer(experiment, chosen, Recorder(tmp_path))
    trainer.load({"config": config})
    trainer.fit()
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved.tensors and all("lora_" in name for name in saved.tensors)
    assert os.path.getsize(tmp_path / "checkpoints" / "step_00000004" / "model.safetensors") < 150_000
