"""Successive halving: every method gets the same declared total, and a candidate that goes on is resumed."""

import math
from pathlib import Path

import pytest
from helpers import trajectory
from sweeping import SWEEPS, results_list

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.jobs.work import PredictWork, TrainWork
from tuneoff.sweeps.halving import (
    Rung,
    group_candidates,
    has_reached,
    is_halving,
    list_launches,
    plan_rungs,
    rank_candidates,
    refuse_unfair,
    sum_budgets,
)
from tuneoff.sweeps.plan import Point
from tuneoff.sweeps.progress import JobRow, describe_unfinished
from tuneoff.sweeps.rung_losses import read_loss_at
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
    ranked = rank_candidates(candidates, 0.25)
    assert [setting[1] for setting in ranked[:2]] == ["lr=0.2", "lr=0.3"]


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


def make_result(status: str, losses: dict[int, float], share: float | None = None) -> dict:
    """A result of a run of 16 steps, with these validation losses by step."""
    curve = [{"step": step, "validation_loss": loss} for step, loss in losses.items()]
    budget = {"kind": "max_steps", "value": 16}
    return {"status": status, "curve": curve, "paused_after": share, "budget": budget}


def keep_result(point: Point, result: dict) -> None:
    """Leave a result as a job does."""
    record.write_json(point.folder / record.RESULT, result)


@pytest.mark.parametrize("budget", [{"kind": "max_steps", "value": 17}, {"kind": "epochs"}])
def test_a_paused_run_is_judged_where_the_others_were(tmp_path, budget):
    """It had come further, and its last loss stood for the earlier ones."""
    losses = {0: 5.0, 2: 3.1, 3: 3.0, 5: 3.2, 7: 3.5, 9: 3.9}  # 17/8 is 2.1, 17/4 4.3, 17/2 8.5
    result = {**make_result("interrupted", losses, 0.5), "budget": budget}
    point = make_point(tmp_path, "lora", 0.1, **result)
    assert [read_loss_at(point.folder, share) for share in (0.125, 0.25, 0.5)] == [3.0, 3.2, 3.9]
    assert read_loss_at(point.folder, 1.0) == math.inf


def test_a_loss_that_the_result_has_left_out_is_in_the_metrics(tmp_path):
    """A result keeps two hundred lines of its curve."""
    point = make_point(tmp_path, "lora", 0.1, **make_result("finished", {0: 5.0, 16: 1.0}))
    lines = [f'{{"step": {step}, "validation_loss": {20 - step}}}' for step in range(17)]
    (point.folder / record.METRICS).write_text("\n".join(lines))
    assert read_loss_at(point.folder, 0.25) == 16.0


def test_a_whole_run_without_the_evaluation_that_is_compared_is_refused(tmp_path):
    whole = make_point(tmp_path, "lora", 0.1, **make_result("finished", {0: 5.0, 16: 1.0}))
    whole.is_done = True
    waiting = [make_point(tmp_path, "lora", rate) for rate in (0.2, 0.3)]
    with pytest.raises(ConfigError, match="tuning_schedule=halving: must be grid, or .* evaluated"):
        refuse_unfair([whole, *waiting])
    refuse_unfair([whole])
    # One that was stopped would go on from its checkpoint, which lies behind.
    stopped = make_result("interrupted", {0: 5.0})
    stopped["curve"].append({"step": 9, "loss": 2.0})
    keep_result(waiting[0], stopped)
    with pytest.raises(ConfigError, match="after 0.25 of its budget"):
        refuse_unfair([*waiting[::-1], make_point(tmp_path, "lora", 0.4)])
    keep_result(waiting[0], {**stopped, "status": "diverged"})
    refuse_unfair(waiting)
    keep_result(whole, make_result("finished", {0: 5.0, 4: 3.0, 8: 2.0, 16: 1.0}))
    refuse_unfair([whole, *waiting])
    # Patience ended it before: its last loss is the one that it would have had.
    early = {**make_result("finished", {0: 5.0, 3: 3.0}), "kept": {"stopped_early_at": 3}}
    keep_result(whole, early)
    refuse_unfair([whole, *waiting])
    assert read_loss_at(whole.folder, 0.5) == 3.0


def test_of_a_budget_of_seconds_the_evaluation_nearby_counts(tmp_path):
    result = make_result("finished", {0: 5.0, 7: 3.0, 13: 2.0, 30: 1.0})
    result["budget"] = {"kind": "max_seconds", "value": 60.0}
    point = make_point(tmp_path, "lora", 0.1, **result)
    others = [make_point(tmp_path, "lora", rate) for rate in (0.2, 0.3)]
    refuse_unfair([point, *others])
    assert [read_loss_at(point.folder, share) for share in (0.25, 0.5)] == [3.0, 2.0]
    result["curve"] = [result["curve"][0], result["curve"][-1]]
    keep_result(point, result)
    with pytest.raises(ConfigError, match="was not evaluated after 0.25"):
        refuse_unfair([point, *others])


def test_candidates_that_are_to_be_made_again_are_refused(tmp_path):
    points = [make_point(tmp_path, "lora", rate) for rate in (0.1, 0.2)]
    for point in points:
        point.rerun = True
    with pytest.raises(ConfigError, match="^rerun=true: must be false with tuning_schedule=halv"):
        refuse_unfair(points)
    # Of one candidate there is nothing to compare; the sweep's own advice is to run it again.
    refuse_unfair(points[:1])
    keep_result(points[0], make_result("diverged", {0: 5.0}))
    [launch] = list_launches(points[:1])
    assert (launch.points, launch.share) == (points[:1], 1.0)


def play(points: list[Point], losses: dict[str, float], diverging: dict[str, float]) -> list[str]:
    """Launch as a sweep does, with runs that only write results; return what was trained, and to which share.

    Args:
        losses: of each rate at every step.
        diverging: the share beyond which a rate does.
    """
    played = []
    for launch in list_launches(points):
        for point in launch.points:
            rate = point.overrides[1]
            played.append(f"{rate} {launch.share:g}")
            steps = {step: losses[rate] for step in (2, 4, 8, 16) if step <= 16 * launch.share}
            result = make_result("interrupted", steps, launch.share)
            if launch.share == 1:
                result = make_result("finished", steps)
            last = diverging.get(rate, 1.0)
            if launch.share > last:
                before = {step: loss for step, loss in steps.items() if step <= 16 * last}
                result = make_result("diverged", before)
            keep_result(point, result)
    return played


def test_where_the_last_candidate_diverges_the_next_best_goes_on(tmp_path):
    losses = {"lr=0.1": 3.0, "lr=0.2": 2.0, "lr=0.3": 1.0, "lr=0.4": 4.0}
    points = [make_point(tmp_path, "lora", float(rate.partition("=")[2])) for rate in losses]
    diverging = {"lr=0.3": 0.5, "lr=0.2": 0.5}
    played = play(points, losses, diverging)
    assert played[-3:] == ["lr=0.3 1", "lr=0.2 1", "lr=0.1 1"]
    assert played[:-3] == [*(f"{rate} 0.25" for rate in losses), "lr=0.3 0.5", "lr=0.2 0.5"]
    # What is settled is trained no more.
    assert play(points, losses, diverging) == []


def test_a_problem_that_has_its_result_does_not_go_on_with_another(tmp_path):
    losses = {"lr=0.1": 3.0, "lr=0.2": 2.0}
    points = []
    for method in ("lora", "full"):
        points += [make_point(tmp_path, method, float(rate.partition("=")[2])) for rate in losses]
    played = []
    for launch in list_launches(points):
        for point in launch.points:
            method, rate, _ = point.overrides
            played.append(f"{method} {rate} {launch.share:g}")
            steps = {step: losses[rate] for step in (8, 16) if step <= 16 * launch.share}
            result = make_result("interrupted", steps, launch.share)
            if launch.share == 1:
                is_lost = (method, rate) == ("method=full", "lr=0.2")
                result = make_result("diverged" if is_lost else "finished", steps)
            keep_result(point, result)
    assert played[4:] == ["method=lora lr=0.2 1", "method=full lr=0.2 1", "method=full lr=0.1 1"]


def test_where_all_diverge_none_is_tried_twice(tmp_path):
    losses = {"lr=0.1": 3.0, "lr=0.2": 2.0, "lr=0.3": 1.0}
    points = [make_point(tmp_path, "lora", float(rate.partition("=")[2])) for rate in losses]
    played = play(points, losses, dict.fromkeys(losses, 0.0))
    assert played == [f"{rate} 0.25" for rate in losses]


def test_predictions_are_not_halved(tmp_path):
    point = make_point(tmp_path, "lora", 0.1)
    assert is_halving("halving", [point])
    point.work_type = PredictWork
    assert not is_halving("halving", [point])


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
