"""The best step: kept, used for what follows training, over a kill and a resume; and early stopping by patience."""

import pytest
from helpers import Killed, bound, kill_inside, trajectory

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.training.best_step import BestStep
from tuneoff.training.best_weights import FOLDER

# A rate at which the loss falls, then rises.
RISES = ["method=full", "lr=2e-2", "max_steps=8", "eval_every=2", "scheduler=constant"]


def note_all(best: BestStep, *evaluations: tuple) -> BestStep:
    for step, loss, second in evaluations:
        best.note(step, loss, second, 1.0)
    return best


def test_ties_go_to_the_earlier_step():
    experiment, _, _ = bound("method=lora", "eval_every=1", "save_best=validation")
    best = note_all(
        BestStep(experiment), (0, 3.0, 1.0), (1, 2.0, 9.0), (2, 2.0, 1.0), (3, 2.5, 1.0)
    )
    assert (best.step, best.losses) == (1, {"validation": 2.0, "second_set": 9.0})
    assert best.stopped_at is None


def test_what_is_forgotten_counts_where_it_shall():
    experiment, _, _ = bound(
        "method=lora", "eval_every=1", "save_best=forgetting_aware", "forgetting.data=stdlib"
    )
    best = note_all(BestStep(experiment), (0, 3.0, 1.0), (1, 2.5, 1.2), (2, 2.4, 1.9))
    assert (best.step, best.score) == (1, pytest.approx(2.7))


def test_patience_counts_evaluations_over_a_resume():
    experiment, _, _ = bound("method=lora", "eval_every=1", "patience=3")
    best = note_all(BestStep(experiment), (0, 3.0, None), (1, 3.1, None), (2, 3.0, None))
    resumed = BestStep(experiment)
    resumed.restore(best.state())
    assert resumed.evaluations_since == 2 and resumed.stopped_at is None
    resumed.note(3, 3.0, None, None)
    assert resumed.stopped_at == 3


def test_the_best_step_is_judged_and_saved_also_after_a_kill(run, new_run, tmp_path):
    settings = [*RISES, "save_best=validation", "which=best"]
    folder = tmp_path / "whole"
    result = run(*settings, "save_model=true", folder=folder)
    assert result["status"] == "finished", result["error"]
    losses = {
        line["step"]: line["validation_loss"]
        for line in record.read_metrics(folder)
        if "validation_loss" in line
    }
    step = min(losses, key=losses.get)
    assert step < 8, "the loss must rise for this test to say anything"
    assert result["kept"]["best_step"] == step and result["kept"]["which"] == "best"
    assert result["loss"]["final"] == losses[step] and result["loss"]["last"] == losses[8]
    assert [path.name for path in (folder / record.CHECKPOINTS / FOLDER).iterdir()] == [str(step)]
    # What was saved has the best step's loss.
    again = new_run("method=full", f"model.path={folder / 'model'}", folder=tmp_path / "again")
    saved = again.parts.evaluation.evaluate_split("validation", 0)
    assert saved.mean == pytest.approx(losses[step])

    training = new_run(*settings, "save_every=2", folder=tmp_path / "killed")
    kill_inside(training, lambda: training.trainer.step == 5)
    with pytest.raises(Killed):
        training.fit()
    training.session.recorder.close()
    resumed = new_run(*settings, "resume=auto", folder=tmp_path / "killed")
    resumed.fit()
    resumed.conclude()
    assert resumed.measured()["kept"] == result["kept"]
    assert trajectory(tmp_path / "killed") == trajectory(folder)


def test_patience_ends_a_run(run, tmp_path):
    result = run(*RISES, "max_steps=40", "patience=1", "forgetting.data=docstrings",
                 "forgetting.data.limit=8", folder=tmp_path)  # fmt: skip
    stopped = result["kept"]["stopped_early_at"]
    assert result["status"] == "finished" and stopped < 40
    lines = list(record.read_metrics(tmp_path))
    assert max(line["step"] for line in lines) == stopped
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    second = [line["second_set_loss"] for line in lines if "second_set_loss" in line]
    assert len(second) == len(validation)
    assert result["loss"]["final"] == validation[-1]
    assert result["metrics"]["forgetting"] == second[-1] - second[0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["save_best=validation"], "save_best=validation: needs eval_every"),
        (["patience=2"], "patience=2: needs eval_every"),
        (["which=best"], "which=best: needs save_best=validation or forgetting_aware"),
        (["save_best=forgetting_aware", "eval_every=2"], "forgetting_aware: needs forgetting.data"),
        (["save_best=test", "eval_every=2"], "save_best=test: must be one of"),
    ],
)
def test_what_could_never_be_kept_is_refused(options, line):
    with pytest.raises(ConfigError, match=line):
        bound("method=lora", *options)
