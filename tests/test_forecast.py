"""Forecasts: a sweep says what it is about to do, and a dry run does no more than that."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from omegaconf import DictConfig, OmegaConf

from tuneoff.jobs.work import TrainWork
from tuneoff.sweeps import progress, time_forecast
from tuneoff.sweeps.forecast import describe_plan, list_jobs
from tuneoff.sweeps.parts import plan_parts
from tuneoff.sweeps.plan import Budget, Point


def make_point(folder: Path, budget: Budget | None, seconds: float | None = None) -> Point:
    """A job, done where it took `seconds`."""
    if seconds is not None:
        folder.mkdir()
        content = {"status": "finished", "throughput": {"wall_seconds": seconds}}
        (folder / "result.json").write_text(json.dumps(content))
    return Point([], folder, seconds is not None, TrainWork, budget=budget)


STEPS = Budget("max_steps", 180, 180 * 2048)


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (
            [STEPS, STEPS],
            "2 jobs to run, 0 done before; 180 steps each, at most 737,280 tokens in all",
        ),
        (
            [STEPS, Budget("max_steps", 20, 100)],
            "2 jobs to run, 0 done before; 180 steps (1 jobs), 20 steps (1 jobs), at most 368,740 tokens in all",
        ),
        (
            [Budget("max_seconds", 1_234_567.5, None)],
            "1 jobs to run, 0 done before; 1,234,567.5 s each",
        ),
        ([Budget("epochs", 3, None)], "1 jobs to run, 0 done before; 3 epochs each"),
        ([None], "1 jobs to run, 0 done before"),
        ([], "0 jobs to run, 0 done before"),
    ],
)
def test_a_plan_in_a_line(tmp_path, budgets, expected):
    points = [make_point(tmp_path / str(number), budget) for number, budget in enumerate(budgets)]
    assert describe_plan(points, plan_parts(points)) == expected


def test_the_jobs_that_are_done_say_how_long_the_others_take(tmp_path):
    points = [
        make_point(tmp_path / name, STEPS, seconds) for name, seconds in (("a", 50), ("b", 70))
    ]
    points += [make_point(tmp_path / name, STEPS) for name in "cde"]
    assert describe_plan(points, plan_parts(points)).endswith(
        "; about 3 min 0 s one after another, by those that are done"
    )


def finish_job(folder: Path, wall_seconds: float, train_seconds: float) -> None:
    """A record of a job that took so long."""
    folder.mkdir()
    throughput = {"wall_seconds": wall_seconds, "train_seconds": train_seconds}
    content = {"status": "finished", "throughput": throughput}
    (folder / "result.json").write_text(json.dumps(content))


def test_what_every_job_takes_is_told_from_what_grows_with_its_budget(tmp_path):
    """4 s to start, load and evaluate, and 1 s for 10 steps: a job of 90 steps takes 13 s, and no 45."""
    finish_job(tmp_path / "short", wall_seconds=5.0, train_seconds=1.0)
    short = Point([], tmp_path / "short", True, TrainWork, budget=Budget("max_steps", 10, 1000))
    long = Point([], tmp_path / "long", False, TrainWork, budget=Budget("max_steps", 90, 9000))
    points = [short, long]
    assert describe_plan(points, plan_parts(points)).endswith(
        "; about 13 s one after another, by those that are done"
    )


def make_hydra(folder: Path, sweeper: dict, number: int) -> DictConfig:
    """Hydra's own part of a job's config."""
    return OmegaConf.create(
        {
            "job": {"num": number},
            "overrides": {"task": ["seed=1"]},
            "sweeper": sweeper,
            "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
            "runtime": {"output_dir": str(folder)},
        }
    )


def test_what_the_first_job_starts_for_all_is_counted_once(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "_costs", [])
    jobs = [(5.0, 27.0, 2, 20.0), (5.0, 5.5, 1, 10.0)]
    lines = []
    for number, (wall_seconds, seconds, jobs_left, work_left) in enumerate(jobs):
        folder = tmp_path / str(number)
        finish_job(folder, wall_seconds, train_seconds=1.0)
        sweeper = {"jobs": 3, "work": 10.0, "jobs_left": jobs_left, "work_left": work_left}
        hydra = make_hydra(folder, {**sweeper, "varied": ["seed"]}, number)
        lines.append(progress.format_progress_line(hydra, "finished", "ran", "", seconds))
    # Not 2 x 27 s, though the first took so long; the half second before the second's record counts.
    assert lines[0].endswith("(about 10 s left)")
    assert lines[1].endswith("(about 5 s left)")


def make_candidates(folder: Path, *results: dict) -> list[Point]:
    """Candidates of one method, of 8 steps each, with these results so far."""
    points = []
    for number, result in enumerate(results):
        place = folder / str(number)
        place.mkdir()
        if result:
            (place / "result.json").write_text(json.dumps(result))
        overrides = ["method=lora", f"lr={number}"]
        done = result.get("status") in ("finished", "diverged")
        budget = Budget("max_steps", 8, 8 * 2048)
        points.append(Point(overrides, place, done, TrainWork, budget=budget))
    return points


def stopped(share: float | None, status: str, *losses: float) -> dict:
    """A result with evaluations after 0, 1, 2, 4 and 8 steps, as far as it came."""
    steps = (0, 1, 2, 4, 8)
    curve = [
        {"step": step, "validation_loss": loss} for step, loss in zip(steps, losses, strict=False)
    ]
    return {
        "status": status,
        "paused_after": share,
        "curve": curve,
        "budget": {"kind": "max_steps", "value": 8},
    }


def forecast(points: list[Point]) -> tuple[str, list[str]]:
    """The line of a plan by halving, and the states of its jobs."""
    parts = plan_parts(points, "halving")
    states = [line.split("] ")[1].split(":")[0] for line in list_jobs(points, parts)]
    return describe_plan(points, parts), states


def test_a_forecast_of_halving_is_what_halving_trains(tmp_path):
    line, _ = forecast(make_candidates(tmp_path, *[{}] * 5))
    # Five for 1 step, three for 1 more, two for 2 more, one for 4 more.
    tokens = (5 + 3 + 2 * 2 + 4) * 2048
    assert (
        line
        == f"5 jobs to run, 0 done before; up to 8 steps each, at most {tokens:,} tokens in all"
    )


def test_a_forecast_of_halving_goes_on_from_what_is_there(tmp_path):
    pauses = [stopped(0.25, "interrupted", 5.0, 4.0, loss) for loss in (3.0, 2.0, 2.5, 3.5)]
    line, states = forecast(make_candidates(tmp_path, *pauses))
    assert states == ["done", "to run", "to run", "done"]
    tokens = (2 * 2 + 4) * 2048
    assert line.startswith("2 jobs to run, 2 done before; ") and f" {tokens:,} tokens" in line


def test_nothing_is_to_run_of_a_settled_halving(tmp_path):
    pause = stopped(0.5, "interrupted", 5.0, 4.0, 3.5, 3.0)
    whole = stopped(None, "finished", 5.0, 4.0, 3.0, 2.0, 1.0)
    points = make_candidates(tmp_path, pause, whole)
    assert forecast(points) == ("0 jobs to run, 2 done before", ["done", "done"])


def test_the_candidate_that_replaces_a_lost_one_is_foreseen(tmp_path):
    pause = stopped(0.5, "interrupted", 5.0, 4.0, 3.5, 3.0)
    lost = stopped(None, "diverged", 5.0, 4.0, 3.0, 2.0)
    line, states = forecast(make_candidates(tmp_path, pause, lost))
    assert states == ["to run", "done"] and f"at most {4 * 2048:,} tokens" in line


def test_the_hours_of_halving_on_a_card_are_those_of_its_parts(monkeypatch, tmp_path):
    prediction = {"time": {"device": "a100", "hours": [1.0, 1.0]}, "needed_gib": 2.0}
    monkeypatch.setattr(time_forecast, "predict_beside", lambda work: prediction)
    points = make_candidates(tmp_path, *[{}] * 5)
    for point in points:
        point.prediction = Mock()
    halved = list(time_forecast.forecast_sweep(plan_parts(points, "halving")))
    assert halved == [
        "  each job: 1 h 0 min for a whole budget, needs 2.00 GiB (5 jobs)",
        "on a100: 2 h 0 min of train steps one after another",
    ]
    whole = list(time_forecast.forecast_sweep(plan_parts(points)))
    assert whole[0].startswith("  each job: 1 h 0 min each, ") and " 5 h 0 min " in whole[1]


@pytest.mark.slow
def test_a_dry_run_lists_the_jobs_and_starts_none(sweep, tmp_path):
    words = ["-m", "method=lora,full", "seed=0,1", "dry_run=true"]
    code, out, err = sweep(*words)
    assert code == 0 and "4 jobs to run, 0 done before; " in err
    lines = out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"[{number}/4] to run" for number in range(1, 5)
    ]
    assert "method=lora" in lines[0] and "seed=0" in lines[0] and "dry_run=" not in out
    folders = {line.split()[-1] for line in lines}
    assert len(folders) == 4 and not any(Path(folder).exists() for folder in folders)


@pytest.mark.slow
def test_a_sweep_says_beforehand_what_it_takes_on_a_card(sweep):
    words = ["-m", "method=lora,full", "seed=0,1", "lr=1e-3,1e-4", "dry_run=true", "device=a100"]
    code, _, err = sweep(*words)
    assert code == 0, err
    lines = err.splitlines()
    # Neither seeds nor rates change it: one line a method.
    for method in ("lora", "full"):
        own = [line for line in lines if line.startswith(f"  method={method}: ")]
        assert len(own) == 1 and own[0].endswith("(4 jobs)"), err
        assert " each, needs " in own[0]
    assert [line for line in lines if line.startswith("on a100: ")]


@pytest.mark.parametrize(("jobs_at_once", "left"), [(1, "4 min 0 s"), (2, "2 min 0 s")])
def test_time_left_is_of_jobs_that_were_not_done_before(monkeypatch, tmp_path, jobs_at_once, left):
    """Whichever process of the launcher took those that were."""
    monkeypatch.setattr(progress, "_costs", [])
    folder = tmp_path / "20"
    finish_job(folder, wall_seconds=60.0, train_seconds=50.0)
    sweeper = {"jobs": 25, "work": 10.0, "jobs_left": 4, "work_left": 40.0, "varied": ["seed"]}
    hydra = make_hydra(folder, sweeper, number=20)
    hydra.launcher.n_jobs = jobs_at_once
    line = progress.format_progress_line(hydra, "finished", "ran", "", 60.0)
    assert line.endswith(f"60.0 s  (about {left} left)")


def test_nothing_is_said_of_the_time_left_on_machines_that_are_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "_costs", [])
    folder = tmp_path / "0"
    finish_job(folder, wall_seconds=60.0, train_seconds=50.0)
    sweeper = {"jobs": 25, "work": 10.0, "jobs_left": 4, "work_left": 40.0, "varied": ["seed"]}
    hydra = make_hydra(folder, sweeper, number=0)
    hydra.launcher._target_ = "hydra_plugins.hydra_submitit_launcher.SlurmLauncher"
    assert progress.format_progress_line(hydra, "finished", "ran", "", 60.0).endswith("60.0 s")


def test_predictions_forecast_by_their_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "_costs", [])
    sweeper = {"jobs": 3, "work": 1.0, "jobs_left": 2, "work_left": 2.0, "varied": ["seed"]}
    hydra = make_hydra(tmp_path / "0", sweeper, number=0)
    line = progress.format_progress_line(hydra, "finished", "ran", "", 7.0)
    assert line.endswith("7.0 s  (about 14 s left)")
