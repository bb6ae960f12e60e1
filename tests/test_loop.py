"""The loop trains every method, records what happened, and says so when it ends badly."""

import math

import pytest
from helpers import METHODS, Killed, kill_inside, quick_of

from tuneoff import record


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_leaves_a_whole_record(quick_run, method):
    result, folder = quick_run(method)
    assert result["status"] == "finished", result["error"]
    assert (
        result["loss"]["final"] != result["loss"]["initial"]
    )  # whether it learns is shown on the pretrained model
    assert result["loss"]["test"] > 0
    assert set(result["memory"]["peak_gib"]) == {"load", "train", "evaluate"}
    counts = result["parameters"]
    assert 0 < counts["trainable"] <= counts["ever_trained"] <= counts["total"]
    lines = list(record.read_metrics(folder))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert result == record.read_json(folder / "result.json")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_default_problem(run, method):
    """A few steps at its own rate on the pretrained model; the whole budget is README's table."""
    result = run(
        f"method={method}",
        "model=tiny",
        "model.path=tuneoff:tiny",
        "data.path=tuneoff:docstrings",
        "data.limit=64",
        "max_length=160",
        "max_steps=10",
        "batch_size=8",
        *(["badam_switch_interval=5"] if "badam" in method else []),
    )
    assert result["loss"]["final"] < 0.95 * result["loss"]["initial"]


# ---------------------------------------------------------------- budgets, schedules, precision
def losses(result):
    return [line["loss"] for line in result["curve"] if "loss" in line]


def test_epochs_end_with_their_last_row(run):
    result = run(
        "method=full",
        "max_steps=null",
        "epochs=1.5",
        "data.limit=10",
        "batch_size=4",
        "max_length=512",
    )
    assert result["status"] == "finished"
    assert result["provenance"]["data"]["rows"]["train"] == 10
    assert len(losses(result)) == 4  # 15 rows: 4, 4, 4, 3
    assert result["budget"] == {"kind": "epochs", "value": 1.5}


def test_tokens_are_seen_in_whole_steps(run):
    result = run("method=full", "max_steps=null", "max_tokens=900")
    tokens = [line["tokens"] for line in result["curve"] if "loss" in line]
    assert tokens[-2] < 900 <= tokens[-1] == result["throughput"]["tokens_seen"]


def test_seconds_are_those_of_train_steps(run):
    result = run("method=full", "max_steps=null", "max_seconds=0.4")
    seconds = result["throughput"]["train_seconds"]
    assert (
        0.4
        <= seconds
        < 0.4 + 2 * max(line["step_seconds"] for line in result["curve"] if "loss" in line)
    )


def test_seconds_count_on_over_a_resume(new_run, tmp_path):
    """Those before the stop are spent: the rest of the schedule, and the end, come when all of them sum up to it."""
    budget, seen = 1.5, []
    for resume in ("never", "auto"):
        training = new_run(
            "method=full",
            "max_steps=null",
            f"max_seconds={budget}",
            "save_every=1",
            "scheduler=linear",
            "warmup_ratio=0",
            "lr=1e-3",
            f"resume={resume}",
            folder=tmp_path,
        )
        if resume == "never":
            kill_inside(
                training,
                lambda training=training: training.parts.throughput.train_seconds > budget / 2,
            )
            with pytest.raises(Killed):
                training.fit()
        else:
            assert training.parts.schedule.seconds == pytest.approx(sum(seen), abs=1e-4)
            training.fit()
        training.parts.recorder.close()
        lines = [line for line in record.read_metrics(tmp_path) if "loss" in line]
        seen = [line["step_seconds"] for line in lines]
    assert (
        training.trainer.step == len(lines)
        and budget / 2 < sum(seen[: training.parts.recorder.run["resumed_at_step"]]) < budget
    )
    assert budget <= sum(seen) < budget + 2 * max(seen)
    for line, before in zip(lines, [sum(seen[:index]) for index in range(len(seen))], strict=True):
        assert line["lr"][0] == pytest.approx(1e-3 * (1 - before / budget), abs=1e-6)


@pytest.mark.parametrize(
    ("scheduler", "last"),
    [("cosine", 0.5 * (1 + math.cos(math.pi * 0.95))), ("linear", 0.05), ("constant", 1.0)],
)
def test_schedules_go_by_progress(run, scheduler, last):
    result = run(
        "method=full", "max_steps=10", f"scheduler={scheduler}", "warmup_ratio=0", "lr=1e-3"
    )
    rates = [line["lr"][0] for line in result["curve"] if "loss" in line]
    assert rates[-1] == pytest.approx(1e-3 * last)


def test_warm_up_is_linear_in_progress(run):
    result = run("method=full", "max_steps=10", "warmup_ratio=0.4", "scheduler=constant", "lr=1e-3")
    rates = [line["lr"][0] for line in result["curve"] if "loss" in line]
    assert rates == pytest.approx(
        [1e-3 * share for share in (0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1, 1, 1)]
    )


def test_accumulation_is_one_batch(run, tmp_path):
    whole = run("method=full", "batch_size=8", folder=tmp_path / "whole")
    parts = run(
        "method=full", "batch_size=2", "gradient_accumulation_steps=4", folder=tmp_path / "parts"
    )
    assert losses(parts) == pytest.approx(losses(whole), rel=2e-6)


def test_gradient_checkpointing_changes_nothing_but_memory(run, tmp_path):
    for method in ("full", "lora"):
        plain = run(f"method={method}", folder=tmp_path / f"{method}_plain")
        spared = run(
            f"method={method}", "gradient_checkpointing=true", folder=tmp_path / f"{method}_spared"
        )
        assert losses(spared) == pytest.approx(losses(plain), rel=1e-6)
        kept = [
            result["memory"]["train_breakdown_gib"]["activations"] for result in (plain, spared)
        ]
        assert kept[1] < kept[0]


@pytest.mark.parametrize("method", quick_of(METHODS, "lora", "galore"))
def test_precisions_are_what_they_say(run, quick_run, tmp_path, method):
    extra = ["galore_rank=8"] if "galore" in method else []
    full, _ = quick_run(method)
    mixed = run(f"method={method}", *extra, "mixed_precision=bf16", folder=tmp_path / "mixed")
    pure = run(f"method={method}", *extra, "pure_bf16=true", folder=tmp_path / "pure")
    for result, dtype in ((full, "float32"), (mixed, "float32"), (pure, "bfloat16")):
        assert result["status"] == "finished", result["error"]
        assert result["provenance"]["precision"]["dtype"] == dtype
        assert losses(result) == pytest.approx(losses(full), rel=0.02)
    assert losses(mixed) != losses(full) != losses(pure)
    weights = [result["memory"]["train_breakdown_gib"]["parameters"] for result in (full, pure)]
    assert weights[1] < 0.7 * weights[0]


def test_clipping_is_by_the_global_norm(run, tmp_path):
    free = run("method=full", folder=tmp_path / "free")
    tight = run("method=full", "max_grad_norm=1e-3", folder=tmp_path / "tight")
    assert losses(free)[0] == losses(tight)[0] and losses(free)[-1] != losses(tight)[-1]
    assert (
        free["curve"][1]["gradient_norm"] == tight["curve"][1]["gradient_norm"] > 1e-3
    )  # as it was before the clip
