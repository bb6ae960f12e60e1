"""A run stopped at any moment and started again ends as the run that was never stopped, to the last bit."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers import METHODS, Killed, apart, complete, kill_inside, trajectory, wait_for
from safetensors.torch import load_file

from tuneoff import record
from tuneoff.cli.run_folder import (
    RunEnded,
    check_in_other_ranks,
    check_resumed_run,
    check_same_run,
    choose_run_folder,
    describe_resume,
)
from tuneoff.config import ConfigError, identify_run
from tuneoff.jobs import supervisor
from tuneoff.jobs.work import TrainWork
from tuneoff.training import checkpoint

# With checkpoints inside a BAdam block, between two projections; with dropout and noise, and micro-batches where it may be.
OWN = {
    "galore": ["galore_rank=8", "galore_update_interval=5"],
    "badam": ["badam_switch_interval=5", "badam_switch_mode=random"],
    "badam_ratio": ["badam_switch_interval=4", "badam_update_ratio=0.2"],
    "galore_layerwise": ["galore_rank=8", "galore_update_interval=5"],
    "lora": ["lora_dropout=0.2", "neftune_alpha=5"],
}
BF16, ADAFACTOR, EIGHT_BIT = ["pure_bf16=true"], ["optimizer=adafactor"], ["optimizer=adamw_8bit"]
TWO_TYPES = ["dtype=bfloat16", "trainable_dtype=float32", "mixed_precision=bf16"]
SUBSPACE = ["galore_svd=subspace", "galore_refresh=staggered"]
OTHERS = [
    *((method, []) for method in METHODS if method != "full"),
    ("badam", BF16),
    ("full", EIGHT_BIT),
    ("badam_ratio", BF16),
    ("galore", BF16),
    ("freeze", TWO_TYPES),
    ("lora", ["mixed_precision=bf16"]),
    ("full", ADAFACTOR),
    ("full", [*ADAFACTOR, *BF16]),
    ("galore", ADAFACTOR),
    ("galore", [*ADAFACTOR, *BF16]),
    ("galore_layerwise", [*ADAFACTOR, *BF16]),
    ("badam", [*ADAFACTOR, *BF16]),
    ("galore_layerwise", ADAFACTOR),
    ("badam", ADAFACTOR),
    ("badam", EIGHT_BIT),
    ("galore", EIGHT_BIT),
    ("galore_layerwise", EIGHT_BIT),
]


def options(method, parts=2):
    if method == "galore_layerwise":
        return [f"method={method}", *OWN[method]]
    return [
        f"method={method}",
        f"gradient_accumulation_steps={parts}",
        f"batch_size={4 // parts}",
        *OWN.get(method, []),
    ]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("full", []),
        ("galore", SUBSPACE),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS),
    ],
)
def test_a_run_stopped_inside_a_step_ends_bit_identical(new_run, tmp_path, method, more):
    """In step 8, between its micro-batches: the checkpoint of step 6 is the newest."""
    finals = []
    for name, resumes in (("whole", ["never"]), ("stopped", ["never", "auto"])):
        for resume in resumes:
            training = new_run(
                *options(method),
                "max_steps=11",
                "save_every=2",
                "eval_every=4",
                *more,
                f"resume={resume}",
                folder=tmp_path / name,
            )
            if name == "stopped" and resume == "never":
                kill_inside(training, lambda training=training: training.trainer.step == 7)
                with pytest.raises(Killed):
                    training.fit()
            else:
                assert training.trainer.step == (6 if resume == "auto" else 0)
                training.fit()
            training.parts.recorder.close()
        finals.append((trajectory(tmp_path / name), dict(training.parts.model.named_parameters())))
        saved = checkpoint.load_newest(tmp_path / name / "checkpoints")
        assert saved.tensors.keys() == training.parts.method.ever_trained(
            training.parts.model, training.parts.optimizer
        )
    assert len([line for line in finals[0][0] if "loss" in line]) == 11
    assert [apart(one, other) for one, other in zip(*finals, strict=True)] == [0, 0]


# ---------------------------------------------------------------- real processes, killed by a real SIGKILL
LONG = [
    "max_steps=60",
    "save_every=3",
    "eval_every=4",
    "eval_batch_size=1",
    "keep_checkpoints=1",
    "save_model=true",
]


def seen_in(moment: str, folder: Path, began: float) -> bool:
    """Whether the files say that a run resumed since `began` is in that moment, at least a checkpoint further on."""
    try:
        if (folder / "metrics.jsonl").stat().st_mtime < began:
            return False  # it has not even cut off what lies behind its checkpoint
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        resumed = json.loads((folder / "run.json").read_text()).get("resumed_at_step", 0)
    except (OSError, ValueError, IndexError):
        return False
    step, torn = last["step"], list((folder / "checkpoints").glob(".step_*"))
    if "loss" not in last or step < resumed + 4:
        return False
    if moment == "writing":
        return any(
            path.name.endswith(f"{step:08d}") and path.stat().st_mtime > began for path in torn
        )
    evaluates = step % 4 == 0
    return step % 3 != 0 and evaluates == (moment == "evaluation")


def kill_in(moment: str, folder: Path, began: float, job: psutil.Process, victim: int) -> int:
    """SIGKILL `victim` while `job`, which trains, is stopped where it is seen to be in `moment`; returns the step."""
    while True:
        assert job.is_running() and job.status() != psutil.STATUS_ZOMBIE, (
            "the run ended before it could be killed"
        )
        if seen_in(moment, folder, began):
            job.suspend()
            while job.status() != psutil.STATUS_STOPPED:
                time.sleep(0.001)
            if seen_in(moment, folder, began):
                break
            job.resume()  # it had moved on
        time.sleep(0.0005)
    os.kill(victim, signal.SIGKILL)
    step = list(record.read_metrics(folder))[-1]["step"]
    if victim != job.pid:
        wait_for(lambda: job.ppid() == 1)  # the forkserver has ended with its launcher
        job.resume()
    wait_for(lambda: not record.is_locked(folder))
    if victim == job.pid and moment == "writing":
        assert list((folder / "checkpoints").glob(".step_*"))
    assert checkpoint.load_newest(folder / "checkpoints").step >= 3  # though only one is kept
    return step


def holder(root: int, sweep: Path) -> tuple[psutil.Process, Path] | None:
    """The process below `root` that trains in a folder of `sweep`, since it has the lock open; and that folder."""
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.Error):
            for file in process.open_files():
                if Path(file.path).name == record.LOCK and sweep in Path(file.path).parents:
                    return process, Path(file.path).parent
    return None


def weights(folder: Path) -> dict:
    """Every tensor that a finished run has left: its last checkpoint's, the optimizer's, and the export's."""
    saved = checkpoint.load_newest(folder / "checkpoints")
    return {
        "checkpoint": saved.tensors,
        "state": saved.state,
        "evaluated_at": saved.loop["evaluation"]["evaluated_at"],
        **{
            str(path.relative_to(folder)): load_file(path)
            for path in folder.glob("model/**/*.safetensors")
        },
    }


@pytest.fixture
def command(launch):
    """`command("-m", …)` starts train.py on the small model, for a long run."""
    return lambda *words: launch(*complete(words, LONG))


@pytest.mark.slow
@pytest.mark.rotating
@pytest.mark.parametrize("method", METHODS)
def test_sigkill_six_times(settings, command, tmp_path, measured, method):
    """In training, in evaluation, while a checkpoint is written: the launching process, then the training one.

    A sweep from the command line is killed and started again; its job then goes on in children of this process.
    """
    experiment, chosen, config = settings(*options(method, parts=4), *LONG)
    start = {"config": config, "method": method, "seed": 0}
    sweep, whole, killed, resumed = tmp_path / "sweep", tmp_path / "whole", [], []

    def go_on(folder):
        work = TrainWork(replace(experiment, resume="auto"), chosen, folder, start)
        supervisor.run_supervised(work, supervisor.Limits(), folder / "run.log")
        return record.read_json(folder / "result.json")["status"]

    def kill(moment, root, began):
        trains, folder = wait_for(lambda: holder(root, sweep))
        killed.append(
            kill_in(moment, folder, began, trains, trains.pid if root == os.getpid() else root)
        )
        resumed.append(record.read_json(folder / "run.json").get("resumed_at_step", 0))
        return folder

    for moment in ("training", "evaluation", "writing"):
        began, launcher = (
            time.time(),
            command("-m", *options(method, parts=4), f"hydra.sweep.dir={sweep}"),
        )
        folder = kill(moment, launcher.pid, began)
        assert launcher.wait() == -signal.SIGKILL and record.read_status(folder) == "interrupted"
    for moment in ("training", "evaluation", "writing"):
        with ThreadPoolExecutor(1) as pool:
            struck = pool.submit(kill, moment, os.getpid(), time.time())
            assert go_on(folder) == "killed", struck.result()
            struck.result()
    whole.mkdir()
    assert go_on(folder) == go_on(whole) == "finished"
    print(f"{method}: killed after steps {killed}, gone on from {resumed}")
    assert sum(step % 5 != 0 for step in resumed) >= 3  # inside blocks, between projections
    difference = max(
        apart(trajectory(folder), trajectory(whole)), apart(weights(folder), weights(whole))
    )
    measured(method, "resumed", difference)
    assert difference == 0 and len(trajectory(whole)) == 60 + 16


@pytest.mark.slow
def test_a_single_run_killed_three_times_and_then_stopped(command, tmp_path):
    """A run that is no sweep trains in the launching process; SIGTERM is what SLURM sends."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    for moment in ("training", "evaluation", "writing"):
        began, process = time.time(), command("resume=auto", f"hydra.run.dir={folder}")
        kill_in(moment, folder, began, psutil.Process(process.pid), process.pid)
        assert process.wait() == -signal.SIGKILL and record.read_status(folder) == "interrupted"
    began, process = time.time(), command("resume=auto", f"hydra.run.dir={folder}")
    wait_for(lambda: seen_in("training", folder, began))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    assert "interrupted" in process.stderr.read().splitlines()[-1]
    result = record.read_json(folder / "result.json")
    assert result["status"] == "interrupted" and result["error"]["type"] == "Interrupted"
    assert checkpoint.load_newest(folder / "checkpoints").step == result["curve"][-1]["step"]
    for place in (folder, whole):
        process = command("resume=auto", f"hydra.run.dir={place}")
        assert process.wait() == 0, process.stderr.read()
    assert trajectory(folder) == trajectory(whole)
    assert apart(weights(folder), weights(whole)) == 0


# ---------------------------------------------------------------- which run is gone on with
def test_resume_finds_its_folder(compose_config, tmp_path):
    """auto: the run of these settings that got farthest and has not ended; a folder: that one, if its settings are these."""

    def folder(*words):
        return choose_run_folder(
            str(tmp_path), "2026-01-05", _root_=compose_config("method=full", *words)
        )

    name = folder().rpartition("_")[2]
    for time_, identity, status in (
        ("2026-01-01", name, None),
        ("2026-01-02", name, "interrupted"),
        ("2026-01-03", name, "finished"),
        ("2026-01-04", "another1", "interrupted"),
    ):
        place = tmp_path / f"{time_}_{identity}"
        place.mkdir()
        record.write_json(place / "run.json", {"identity": identity})
        if status:
            record.write_json(place / "result.json", {"identity": identity, "status": status})
    assert folder() == f"{tmp_path}/2026-01-05_{name}"
    assert folder("resume=auto") == f"{tmp_path}/2026-01-02_{name}"
    assert folder("resume=auto", "progress=true") == f"{tmp_path}/2026-01-02_{name}"
    assert folder("resume=auto", "lr=0.5") not in map(str, tmp_path.iterdir())
    first = f"{tmp_path}/2026-01-01_{name}"
    assert folder(f"resume={first}") == first
    check_same_run(compose_config("method=full", f"resume={first}"), Path(first))
    with pytest.raises(ConfigError, match=f"holds run {name}, and these settings make"):
        check_same_run(compose_config("method=full", f"resume={first}", "lr=0.5"), Path(first))


@pytest.mark.parametrize("status", ["finished", "diverged", "out_of_memory"])
def test_a_resume_ends_where_the_run_has_its_result(compose_config, tmp_path, status):
    cfg = compose_config("method=full", f"resume={tmp_path}")
    identity = identify_run(cfg)
    record.write_json(tmp_path / "run.json", {"identity": identity})
    check_resumed_run(cfg, tmp_path)  # an unfinished one
    record.write_json(tmp_path / "result.json", {"identity": identity, "status": status})
    with pytest.raises(RunEnded, match=f"{tmp_path} has (finished|ended, {status})"):
        check_resumed_run(cfg, tmp_path)
    cfg.resume = "auto"
    with pytest.raises(RunEnded):
        check_resumed_run(cfg, tmp_path)
    cfg.task = "predict"
    with pytest.raises(ConfigError, match="^resume=auto: is for task=train, and"):
        check_resumed_run(cfg, tmp_path)


def test_every_rank_ends_where_the_run_has_its_result(compose_config, tmp_path):
    cfg = compose_config("method=full", "resume=auto")
    record.write_json(tmp_path / "run.json", {"identity": identify_run(cfg)})
    check_in_other_ranks(cfg, tmp_path)  # the first rank may have begun it just now
    record.write_json(tmp_path / "result.json", {"status": "finished"})
    for resume in ("auto", str(tmp_path)):
        cfg.resume = resume
        with pytest.raises(RunEnded):
            check_in_other_ranks(cfg, tmp_path)
    cfg.resume = "never"
    check_in_other_ranks(cfg, tmp_path)


def test_no_folder_is_named_beside_another_one_to_go_on_in(compose_config, tmp_path):
    record.write_json(tmp_path / "run.json", {"identity": "other"})
    cfg = compose_config("method=full", f"resume={tmp_path}")
    with pytest.raises(ConfigError, match=f"^hydra.run.dir=elsewhere: .*resume={tmp_path} says"):
        check_resumed_run(cfg, Path("elsewhere"))


def test_resume_takes_the_run_that_got_farthest_and_says_which(compose_config, tmp_path):
    cfg = compose_config("method=full", "resume=auto")
    name = choose_run_folder(str(tmp_path), "2026-01-05", _root_=cfg).rpartition("_")[2]
    for day, steps in ((1, [3]), (2, [4, 12]), (3, [12]), (4, [])):
        place = tmp_path / f"2026-01-0{day}_{name}"
        place.mkdir()
        record.write_json(place / "run.json", {"identity": name})
        for step in steps:
            (place / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    chosen = choose_run_folder(str(tmp_path), "2026-01-05", _root_=cfg)
    assert chosen == f"{tmp_path}/2026-01-03_{name}"  # the newer of the two at step 12
    said = describe_resume("auto", Path(chosen))
    assert said == f"resume=auto: goes on in {chosen} after step 12"
    empty = tmp_path / f"2026-01-04_{name}"
    assert "starts again in" in describe_resume("auto", empty)
    assert "a new one begins in" in describe_resume("auto", tmp_path / "none")
