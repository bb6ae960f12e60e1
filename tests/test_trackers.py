"""Trackers see the run's values, and no failure of theirs spoils a run."""

import json
import signal
import struct
import sys
import time
from pathlib import Path

import psutil
import pytest

from tuneoff.training import trackers
from tuneoff.training.step_log import name_groups

BLOCK, HEADER = 32768, 7
RUN = "hydra.run.dir=run"


def records(path: Path):
    """Protobuf records of an offline run: a LevelDB log (blocks of 32 KiB, fragments of crc, length, type)."""
    from wandb.proto import wandb_internal_pb2

    content, position, whole = path.read_bytes(), 7, b""  # behind the magic and the version
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + HEADER])
        if position + HEADER + length > len(content):
            return  # W&B's own process still writes
        whole += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # full, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def run_id(path: Path) -> str:
    """The id of an offline run, as soon as W&B's own process has written it."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for record in records(path):
            if record.WhichOneof("record_type") == "run":
                return record.run.run_id
        time.sleep(0.1)
    raise AssertionError(f"{path} has no run")


def contents(folder: Path):
    """(run, config, history rows, summary) of the one offline run below `folder`."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 30
    while (
        "exit" not in [record.WhichOneof("record_type") for record in records(path)]
        and time.monotonic() < until
    ):
        time.sleep(0.1)
    run, config, history, summary = None, {}, [], {}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            updates = run.config.update
        elif kind == "config":
            updates = record.config.update
        else:
            updates = []
        config.update(
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
        )
        if kind == "history":
            history.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
        if kind == "summary":
            summary.update(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.summary.update
                }
            )
    return run, config, history, summary


def test_wandb_holds_config_steps_and_the_final_record(run, tmp_path):
    result = run("method=lora", "tracker=wandb", "tags=[smoke,cpu]", "eval_every=2", "lr=3e-3")
    seen, config, history, summary = contents(tmp_path / "run")
    assert (seen.project, seen.job_type, seen.run_group) == ("tuneoff", "lora", "single")
    assert sorted(seen.tags) == ["cpu", "debug", "docstrings", "lora", "smoke"]
    assert seen.display_name == "lora lr=3e-3 seed=0"
    assert config["lora_rank"] == 8 and config["model/name"] == "debug"
    steps = [row for row in history if "train/loss" in row]
    lines = [line for line in result["curve"] if "loss" in line]
    assert [row["train/loss"] for row in steps] == [line["loss"] for line in lines]
    assert [row["lr"] for row in steps] == [line["lr"][0] for line in lines]
    assert [row["train/gradient_norm"] for row in steps] == [
        line["gradient_norm"] for line in lines
    ]
    assert steps[-1]["train/tokens_per_second"] > 0
    assert summary["memory/peak_gib/train"] == result["memory"]["peak_gib"]["train"]
    assert summary["memory/train_breakdown_gib/optimizer_state"] > 0
    assert summary["loss/final"] == result["loss"]["final"] and summary["status"] == "finished"


def test_a_resume_goes_on_in_the_same_wandb_run(run, tmp_path):
    run("method=full", "tracker=wandb", "save_every=2")
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoints" / "step_00000004").rename(tmp_path / "newest")
    result = run("method=full", "tracker=wandb", "save_every=2", "resume=auto")
    assert result["resumed_at_step"] == 2
    paths = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb"))
    ids = [run_id(path) for path in paths]
    assert len(ids) == 2 and ids[0] == ids[1] == result["tracker_id"]


def test_tensorboard_holds_the_same(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run("method=full", "tracker=tensorboard")
    folder = next((tmp_path / "run").rglob("events.out.tfevents.*")).parent
    seen = EventAccumulator(str(folder)).Reload()
    losses = [event.value for event in seen.Scalars("train/loss")]
    assert losses == pytest.approx([line["loss"] for line in result["curve"] if "loss" in line])


def finished(folder):
    return json.loads((folder / "result.json").read_text())["status"]


def test_without_the_package_there_is_one_warning(tmp_path, run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
    assert run("tracker=wandb")["status"] == "finished"
    assert caplog.text.count("wandb") == 1 and "goes on without it" in caplog.text
    assert finished(tmp_path / "run") == "finished"


ONLINE = ["tracker=wandb", RUN, "wandb_mode=online"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        pytest.param(  # nobody answers
            {"WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "5"}, "", marks=pytest.mark.slow
        ),
        (
            {"WANDB_API_KEY": "", "HOME": "/nonexistent", "NETRC": "/nonexistent"},
            "nobody is logged",
        ),
    ],
)
def test_who_cannot_go_online_keeps_an_offline_run(tmp_path, command, environment, reason):
    """A server that refuses connections, and a user who never logged in: one line, and nothing is lost."""
    server = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = command(*ONLINE, **server, **environment)
    assert done.returncode == 0, done.stderr
    assert finished(tmp_path / "run") == "finished"
    [line] = [line for line in done.stderr.splitlines() if "wandb_mode=online" in line]
    assert reason in line and line.endswith("is kept offline, and can be uploaded")
    assert list(tmp_path.glob("run/wandb/offline-run-*")) and "wandb sync" in done.stdout


def test_a_run_of_a_sweep_is_named_by_what_the_sweep_varies(settings):
    experiment, _, config = settings("method=dora", "lr=2.5e-4", "lora_rank=4", "seed=3")
    varied = ["data.limit", "lora_rank", "lr", "method", "seed"]
    started = {"config": config, "varied": varied, "sweep": "ranks"}
    name = trackers.name_run(experiment, started)
    assert name == "dora data.limit=48 lora_rank=4 lr=2.5e-4 seed=3"
    tags = trackers.list_tags(experiment, started)
    assert tags == ["dora", "debug", "docstrings", "ranks"]


def test_rates_that_differ_are_named_by_their_group(new_run):
    training = new_run("method=loraplus")
    parts = training.parts
    names = name_groups(parts.optimizer, parts.model)
    assert any("lora_A" in name for name in names) and any("lora_B" in name for name in names)
    assert len(set(names)) == len(names) == len(parts.optimizer.param_groups)
    rates = [group["lr"] for group in parts.optimizer.param_groups]
    assert set(training.trainer.log._name_rates(rates)["lr"]) == set(names)
    assert training.trainer.log._name_rates([0.1] * len(names)) == {"lr": 0.1}
    training.session.recorder.close()


@pytest.mark.slow
def test_a_killed_service_does_not_stop_the_run(tmp_path, launch):
    folder = tmp_path / "run"
    process = launch("tracker=wandb", RUN, "max_steps=150")
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and '"step": 5,' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[1]
    services = [
        other
        for other in psutil.process_iter(["cmdline"])
        if {"--pid", str(process.pid)} <= set(other.info["cmdline"] or ())
    ]
    assert services
    for service in services:
        service.send_signal(signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert finished(folder) == "finished"
    assert sum("goes on without it" in line for line in error.splitlines()) == 1, error
