"""Several sets in a run: what it is judged by is recorded for each of them, and a resume goes on to the same."""

import json

import pytest
from helpers import bound, composed

from tuneoff.cli.summary import format_run_summary
from tuneoff.config import identify_run
from tuneoff.training.failures import Interrupted

SETS = [
    "data=docstrings+stdlib",
    "data.limit=null",
    "data.sets.docstrings.limit=8",
    "data.sets.stdlib.limit=4",
    "data.mixing=interleave_over",
    "data.sets.docstrings.weight=2",
    "forgetting.data=stdlib+docstrings",
    "forgetting.data.sets.stdlib.limit=2",
    "forgetting.data.sets.docstrings.limit=2",
]


def read_lines(folder) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_losses_and_metrics_are_recorded_by_set_and_a_resume_keeps_them(run, new_run, tmp_path):
    options = ["method=full", *SETS, "save_every=2", "lr=1e-2"]
    whole = run(*options, folder=tmp_path / "whole")
    first, *_, last = [line for line in read_lines(tmp_path / "whole") if "validation_loss" in line]
    for stage, line in (("initial", first), ("final", last)):
        assert whole["loss_by_set"][stage] == line["validation_loss_by_set"]
        assert set(line["validation_loss_by_set"]) == {"docstrings", "stdlib"}
    final = whole["loss_by_set"]["final"]
    assert min(final.values()) < whole["loss"]["final"] < max(final.values())
    assert whole["metrics"]["loss_by_set"] == final
    assert set(whole["metrics"]["forgetting_by_set"]) == {"docstrings", "stdlib"}
    facts = whole["provenance"]["data"]["sets"]
    assert facts["docstrings"]["joined_rows"]["train"] >= 8
    table = format_run_summary(whole, tmp_path)
    rows = facts["stdlib"]["joined_rows"]["validation"]
    assert f"{final['stdlib']:.4f} ({rows} rows)" in table

    stopped = new_run(*options, folder=tmp_path / "stopped")
    take_step = stopped.trainer.take_step

    def stop_inside(step):
        stopped.session.stop.set()
        take_step(step)

    stopped.trainer.take_step = stop_inside
    with pytest.raises(Interrupted):
        stopped.fit()
    stopped.parts.recorder.close()
    again = new_run(*options, "resume=auto", folder=tmp_path / "stopped")
    again.fit()
    measured = again.parts.evaluation
    assert measured.losses_by_set == whole["loss_by_set"]
    assert measured.second_set_losses_by_set["before"].keys() == {"docstrings", "stdlib"}
    assert again.parts.metrics.values() == whole["metrics"]


def test_a_run_is_another_with_another_set_or_weight():
    identities = set()
    words = ["data=docstrings+stdlib", "data.mixing=interleave_over"]
    for more in ([], ["data.sets.stdlib.weight=2"], ["data.sets.stdlib.limit=9"]):
        experiment, _, _ = bound(*words, *more)
        assert experiment.budget == ("max_steps", 180)
        identities.add(identify_composed(*words, *more))
    identities.add(identify_composed("data=docstrings"))
    assert len(identities) == 4


def identify_composed(*words: str) -> str:
    return identify_run(composed(*words))


def test_a_set_that_judges_validation_alone_needs_no_test_rows(run, tmp_path):
    rows = tmp_path / "judge.jsonl"
    lines = [json.dumps({"prompt": f"What is {n}?", "completion": f"It is {n}."}) for n in range(3)]
    rows.write_text("\n".join(lines))
    judge = ["data.sets.json.only_for=validation", f"data.sets.json.path={rows}"]
    options = ["method=full", "test=true", "data=docstrings+json", *judge]
    options += ["data.limit=null", "data.sets.docstrings.limit=4"]
    result = run(*options, folder=tmp_path / "run")
    assert result["loss"]["test"] == result["loss_by_set"]["test"]["docstrings"]
