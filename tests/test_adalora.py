"""AdaLoRA beside what every method is held to: other optimizers, rarer pruning, and the weights of an earlier step."""

import json

import pytest
import torch
from helpers import apart, end_whole_and_killed

from tuneoff.config import ConfigError, Optimizer

QUICK = ["method=adalora", "lr=0.1", "batch_size=2"]


@pytest.mark.parametrize(
    "optimizer",
    ["lion", *(pytest.param(name, marks=pytest.mark.slow) for name in ("soap", "came", "muon"))],
)
def test_any_optimizer_prunes_and_resumes_to_the_last_bit(new_run, tmp_path, optimizer):
    words = [*QUICK, f"optimizer={optimizer}", "max_steps=8", "peft.target_r=2", "save_every=2"]

    def prepare(resume, folder):
        return new_run(*words, resume, folder=folder)

    ends = end_whole_and_killed(prepare, tmp_path, killed_in=5)
    assert [apart(one, other) for one, other in zip(*ends, strict=True)] == [0, 0]
    values = [weight for name, weight in ends[0][1].items() if "lora_E" in name]
    left = sum(int((weight != 0).sum()) for weight in values)
    assert left < sum(map(len, values))


def test_an_optimizer_that_averages_is_refused(settings):
    with pytest.raises(ConfigError, match="^optimizer=schedulefree: must be one of adamw, "):
        settings(
            *QUICK, f"optimizer={Optimizer.schedulefree.name}", "scheduler=constant", "max_steps=4"
        )


@pytest.mark.parametrize(
    "words", [["peft.deltaT=6"], ["peft.deltaT=99"], ["peft.deltaT=2", "peft.tfinal=0"]]
)
def test_steps_after_the_last_pruning_are_refused(settings, words):
    with pytest.raises(
        ConfigError, match=r"^peft.deltaT=\d+: must divide max_steps - 1 = 9, or peft.tfinal be"
    ):
        settings(*QUICK, "max_steps=10", *words)


@pytest.mark.parametrize("words", [["peft.deltaT=3"], ["peft.deltaT=4", "peft.tfinal=3"]])
def test_rarer_pruning_is_saved_as_it_was_trained(run, words):
    result = run(*QUICK, "max_steps=10", "save_model=true", *words)
    assert result["status"] == "finished"


@pytest.mark.slow
def test_the_best_step_is_saved_at_its_own_ranks(new_run, tmp_path):
    """The lowest loss is not the last step's, since the rate is far too high for it."""
    training = new_run(
        *QUICK,
        "peft.target_r=1",
        "max_steps=12",
        "eval_every=1",
        "save_best=validation",
        "which=best",
        "save_model=true",
        folder=tmp_path,
    )
    training.fit()
    with torch.no_grad():
        training.conclude()
    training.parts.recorder.close()
    assert training.parts.evaluation.best_step.step < 12
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    kept = sum(sum(ranks) for ranks in config["rank_pattern"].values())
    values = [w for name, w in training.parts.model.named_parameters() if "lora_E" in name]
    assert kept == sum(int((weight != 0).sum()) for weight in values)
