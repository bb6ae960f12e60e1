"""Successive halving: every method gets the same declared total, and a candidate that goes on is resumed."""

from pathlib import Path

import pytest
from helpers import trajectory
from sweeping import SWEEPS, results_list

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.jobs.work import TrainWork
from tuneoff.sweeps.halving import (
    Rung,
    choose_better,
    group_candidates,
    has_reached,
    plan_rungs,
    read_loss_at,
    sum_budgets,
)
from tuneoff.sweeps.plan import Point
from tuneoff.sweeps.progress import JobRow, describe_unfinished
from tuneoff.training.failures import Paused


def test_the_rungs_of_five_candidates_cost_two_budgets():
    rungs = plan_rungs(5)
    assert rungs == [Rung(5, 0.125), Rung(3, 0.25), Rung(2, 0.5), Rung(1, 1.0)]
    assert sum_budgets(rungs) == 2.0  # 40 % of the grid's five
    assert plan_rungs(1) == [Rung(1, 1.0)]
    assert sum_budgets(plan_rungs(8)) == 8 / 8 + 4 / 8 + 2 / 4 + 1 / 2


def make_point(folder: Path, method: str, lr: float, seed: int = 0, **result) -> Point:
    place = folder / f"{method}_{lr}_{seed}"
    place.mkdir(parents=True)
    if result:
        record.write_json(place / record.RESULT, result)
    return Point([f"method={method}", f"lr={lr}", f"seed={seed}"], place, False, TrainWork)


def paused(loss: float, share: float = 0.25) -> dict:
    curve = [{"step": 0, "validation_loss": 9.0}, {"step": 5, "validation_loss": loss}]
    return {"status": "interrupted", "paused_after": share, "curve": curve}


def test_the_better_half_by_the_mean_over_seeds_goes_on(tmp_path):
    points = []
    for lr, losses in ((0.1, (3.0, 3.2)), (0.2, (1.0, 1.2)), (0.3, (0.5, 2.9)), (0.4, (0.1, None))):
        for seed, loss in enumerate(losses):
            result = {"status": "diverged", "curve": []} if loss is None else paused(loss)
            points.append(make_point(tmp_path, "lora", lr, seed, **result))
    problems = group_candidates(points)
    (candidates,) = problems.values()
    kept = choose_better(candidates, 0.25, 2)
    assert [setting[1] for setting in kept] == ["lr=0.2", "lr=0.3"]


def test_what_has_come_so_far_is_not_trained_again(tmp_path):
    early = make_point(tmp_path, "lora", 0.1, **paused(2.0, 0.125))
    late = make_point(tmp_path, "lora", 0.2, **paused(2.0, 0.25))
    assert [has_reached(point, 0.25) for point in (early, late)] == [False, True]
    assert not has_reached(make_point(tmp_path, "lora", 0.3), 0.125)
    # Of a finished run the evaluation counts at which it would have paused.
    curve = [{"step": step, "validation_loss": 10.0 - step} for step in (0, 2, 4, 8)]
    done = make_point(tmp_path, "lora", 0.4, status="finished", paused_after=None, curve=curve)
    assert read_loss_at(done.folder, 0.25) == 8.0
    assert read_loss_at(early.folder, 0.25) == float("inf")
    row = JobRow("lr=0.1", early.folder)
    assert row.outcome == "paused" and describe_unfinished([row]) is None


def test_other_numbers_of_candidates_are_refused(tmp_path):
    points = [make_point(tmp_path, "lora", 0.1), make_point(tmp_path, "lora", 0.2)]
    points.append(make_point(tmp_path, "full", 0.1))
    with pytest.raises(ConfigError, match="method=lora has 2, method=full has 1"):
        group_candidates(points)


@pytest.mark.slow
def test_a_paused_run_goes_on_to_the_same_bits(new_run, tmp_path):
    settings = ["method=lora", "max_steps=6", "eval_every=3", "lora_dropout=0.1"]
    whole = new_run(*settings, folder=tmp_path / "whole")
    whole.fit()
    folder = tmp_path / "paused"
    training = new_run(*settings, "stop_after=0.5", folder=folder)
    with pytest.raises(Paused, match="after step 3"):
        training.fit()
    assert training.measured()["paused_after"] == 0.5
    training.session.recorder.close()
    resumed = new_run(*settings, "resume=auto", folder=folder)
    resumed.fit()
    assert resumed.measured()["paused_after"] is None
    assert trajectory(folder) == trajectory(tmp_path / "whole")


@pytest.mark.slow
def test_a_tuning_by_halving(sweep, tmp_path):
    words = ["-cd", SWEEPS, "-cn", "tune", "method=lora", "tuning_schedule=halving"]
    words += ["max_steps=8", "hydra.sweeper.around={lr: '0.1,1,10'}", "hydra.sweeper.needs=null"]
    code, out, err = sweep(*words)
    assert code == 0, out + err
    assert "3 candidates of each method, 1.75 whole budgets in all instead of 3" in err
    assert "] paused: " in err and "] interrupted: " not in err
    found = results_list(tmp_path / "sweep")
    statuses = sorted(result["status"] for result in found)
    assert statuses == ["finished", "interrupted", "interrupted"]
    steps = sorted(result["curve"][-1]["step"] for result in found)
    assert steps == [2, 4, 8]
    tokens = [result["throughput"]["tokens_seen"] for result in found]
    assert sum(tokens) < 3 * max(tokens)
    stamps = [path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("result.json")]
    code, out, err = sweep(*words)
    assert code == 0, out + err
    again = [path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("result.json")]
    assert again == stamps
