"""Trackers see the run's values, and no failure of theirs spoils a run."""

import json
import signal
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
    run, config, summary = None, {}, {}
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
        if kind == "summary":
            summary.update(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.summary.update
                }
            )
    return run, config, read_history(path), summary


def test_wandb_holds_config_steps_and_the_final_record(run, tmp_path):
    result = run("method=lora", "tracker=wandb", "tags=[smoke,cpu]", "eval_every=2", "lr=3e-3")
    seen, config, history, summary = contents(tmp_path / "run")
    assert (seen.project, seen.job_type, seen.run_group) == ("tuneoff", "lora", "single")
    assert sorted(seen.tags) == ["cpu", "debug", "docstrings", "lora", "smoke"]
    assert seen.display_name == "lora lr=3e-3 seed=0"
    assert config["lora_rank"] == 8 and config["model/name"] == "debug"
    steps = [row for row in history if "train/loss" in row]
    lines = [line for line in result["curve"] if "loss" in line]
    check_series(steps, lines, result["provenance"]["data"]["rows"]["train"])
    check_evaluations(history, result)
    check_axes(tmp_path / "run")
    assert [row["train/loss"] for row in steps] == [line["loss"] for line in lines]
    assert [row["train/learning_rate"] for row in steps] == [line["lr"][0] for line in lines]
    assert [row["train/grad_norm"] for row in steps] == [line["gradient_norm"] for line in lines]
    assert steps[-1]["train/tokens_per_second"] > 0
    assert summary["memory/peak_gib/train"] == result["memory"]["peak_gib"]["train"]
    assert summary["memory/train_breakdown_gib/optimizer_state"] > 0
    assert summary["loss/final"] == result["loss"]["final"] and summary["status"] == "finished"


# What W&B calls a series, and what metrics.jsonl calls it.
SERIES = {
    "train/loss": "loss",
    "train/grad_norm": "gradient_norm",
    "train/num_input_tokens_seen": "tokens",
    "train/tokens_per_second": "tokens_per_second",
    "train/step_seconds": "step_seconds",
    "train/data_wait_seconds": "data_wait_seconds",
    "train/mfu": "mfu",
    "memory/resident_gib": "resident_gib",
    "memory/peak_resident_gib": "peak_resident_gib",
}


def check_series(steps: list[dict], lines: list[dict], rows: int) -> None:
    """Each step's figures are in W&B as in metrics.jsonl."""
    assert len(steps) == len(lines) == 4
    for row, line in zip(steps, lines, strict=True):
        for name, key in SERIES.items():
            if line[key] is not None:
                assert row[name] == pytest.approx(line[key], rel=1e-4, abs=1e-5), name
        assert line["data_wait_seconds"] < line["step_seconds"]
        assert 0.05 < line["resident_gib"] <= line["peak_resident_gib"] + 0.01
    assert steps[-1]["train/epoch"] == pytest.approx(4 * 4 / rows, abs=1e-3)
    assert 0 < steps[-1]["train/mfu"] < 1.5
    parts = [name for name in steps[0] if name.startswith("memory/breakdown_gib/")]
    assert len(parts) == 4
    assert any(name.startswith("memory/breakdown/") for name in steps[0])  # the table


def check_evaluations(history: list[dict], result: dict) -> None:
    """An evaluation stands over tokens as well as over steps."""
    evaluations = [row for row in history if "eval/loss" in row]
    expected = [line["validation_loss"] for line in result["curve"] if "validation_loss" in line]
    assert [row["eval/loss"] for row in evaluations] == expected
    assert all("train/num_input_tokens_seen" in row for row in evaluations)


def check_axes(folder: Path) -> None:
    """Tokens are the axis of every series, and a summary keeps the least loss and the highest memory."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    metrics = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "metric":
            metric = record.metric
            metrics[metric.name or metric.glob_name] = metric
    assert metrics["eval/loss"].summary.min and metrics["memory/*"].summary.max
    for name in ("eval/loss", "memory/*", "train/loss"):
        assert metrics[name].step_metric == "train/num_input_tokens_seen"


def test_answers_are_a_table(tmp_path):
    """Of lines whose keys differ, cells of one kind a column."""
    tables = []

    class Tracker:
        name = "wandb"

        def log_table(self, *arguments, **named):
            tables.append((arguments, named))

    sent = trackers.Trackers(SimpleNamespace(trackers=[Tracker()]))
    sent.log_lines("answers", [{"row": 0, "found": "4"}, {"row": 1, "tokens": [1]}], step=7)
    named = {"columns": ["row", "found", "tokens"], "step": 7}
    rows = [[0, "4", None], [1, None, "[1]"]]
    assert tables == [(("answers",), {**named, "data": rows})]


@pytest.mark.slow
def test_a_killed_run_has_its_series_up_to_its_last_step(tmp_path, launch):
    """In metrics.jsonl to the step, in W&B's file to the second: it would keep a step until it hears of the next."""
    folder = tmp_path / "run"
    process = launch(
        "tracker=wandb", RUN, "max_steps=5000", "gradient_accumulation_steps=60", "eval_every=2"
    )
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and '"step": 2, "validation_loss"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    seen = read_step_lines(metrics)
    time.sleep(2 * float(trackers.FLUSH_SECONDS))
    process.kill()
    process.wait()
    steps = read_step_lines(metrics)
    assert [line["step"] for line in steps] == list(range(1, steps[-1]["step"] + 1))
    assert {"peak_resident_gib", "data_wait_seconds", "tokens_per_second"} <= steps[-1].keys()
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    rows = read_history(path)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses == [line["loss"] for line in steps[: len(losses)]]
    assert len(losses) >= len(seen)
    evaluations = [row for row in rows if "eval/loss" in row]
    assert len(evaluations) >= 2  # before the first step, and after the second


def read_step_lines(metrics: Path) -> list[dict]:
    """The lines of metrics.jsonl that are of training steps."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def read_history(path: Path) -> list[dict]:
    """The rows that an offline run's file holds."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            names = [item.key or "/".join(item.nested_key) for item in items]
            values = [json.loads(item.value_json) for item in items]
            rows.append(dict(zip(names, values, strict=True)))
    return rows


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


def test_trackio_holds_the_steps(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    result = run("method=lora", "tracker=trackio")
    # Nothing of it stands beside the closing table.
    assert "Trackio" not in capsys.readouterr().out
    storage = sqlite_storage.SQLiteStorage
    [name] = storage.get_runs("tuneoff")
    assert name.startswith("lora lr=") and name.endswith(result["tracker_id"])
    history = [line for line in storage.get_logs("tuneoff", name) if "train/loss" in line]
    losses = [line["loss"] for line in result["curve"] if "loss" in line]
    assert [line["train/loss"] for line in history] == losses


def finished(folder):
    return json.loads((folder / "result.json").read_text())["status"]


def test_without_the_package_there_is_one_warning(tmp_path, run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
    assert run("tracker=wandb")["status"] == "finished"
    assert caplog.text.count("wandb") == 1 and "goes on without it" in caplog.text
    assert finished(tmp_path / "run") == "finished"


ONLINE = ["tracker=wandb", RUN, "wandb_mode=online"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "5"}, ""),  # nobody answers
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
    assert set(training.trainer.log._name_rates(rates)["learning_rate"]) == set(names)
    assert training.trainer.log._name_rates([0.1] * len(names)) == {"learning_rate": 0.1}
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
