"""Reach: the weights that a run has changed are those that its record counts, for every method."""

import pytest
import torch
from helpers import METHODS, quick_of

from tuneoff.record import read_json

# Of BAdam's three blocks (or twenty masks) these steps reach two.
SHORT = ["max_steps=4", "lr=1e-2", "scheduler=constant", "warmup_ratio=0"]
IN_TURN = {"badam": ["badam_switch_interval=2"], "badam_ratio": ["badam_switch_interval=2"]}
BELOW_RANK = {"galore": ["galore_rank=8"], "galore_layerwise": ["galore_rank=8"]}


def count_changed(before: dict, model) -> tuple[int, int]:
    """(entries that differ from before, entries of the weights in which any differs)."""
    entries = 0
    whole = 0
    for name, parameter in model.named_parameters():
        changed = int((parameter.detach() != before[name]).sum())
        entries += changed
        whole += parameter.numel() if changed else 0
    return entries, whole


@pytest.mark.parametrize("method", quick_of(METHODS, "lora", "badam_ratio"))
def test_the_record_counts_the_weights_that_have_changed(new_run, method):
    options = [*IN_TURN.get(method, []), *BELOW_RANK.get(method, [])]
    training = new_run(f"method={method}", *SHORT, *options)
    foreseen = training.parts.parameters["ever_trained"]
    model = training.parts.model
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    training.fit()
    entries, whole = count_changed(before, model)
    measured = training.measured()
    trained = measured["parameters"]["ever_trained"]
    assert foreseen == trained
    # Where a share of each weight trains, its entries count; a few of them may have a gradient of zero.
    by_entry = trained < 0.9 * whole
    assert 0.9 * trained < entries <= trained if by_entry else trained == whole
    training.session.recorder.close()


def test_blocks_count_once_they_had_a_step_and_the_budget_foresees_them(new_run, caplog):
    training = new_run("method=badam", "badam_switch_interval=2", "max_steps=4")
    parts = training.parts
    one_block = parts.parameters["trainable"]
    assert parts.parameters["ever_trained"] == 2 * one_block
    assert "3 blocks take 6 steps, and the budget has 4; 1 of them never train" in caplog.text
    assert parts.method.count_reached(parts.model, parts.optimizer, 0) == 0
    training.trainer.take_step(0)
    assert parts.method.count_reached(parts.model, parts.optimizer, 0) == one_block
    assert parts.method.count_reached(parts.model, parts.optimizer, 2) == 2 * one_block
    assert parts.method.count_reached(parts.model, parts.optimizer, float("inf")) == 3 * one_block
    training.session.recorder.close()


@pytest.mark.parametrize("mode", ["random", "descending", "fixed"])
def test_what_is_foreseen_of_any_order_is_what_comes(new_run, mode):
    fixed = ["badam_start_block=1"] if mode == "fixed" else []
    options = ["badam_switch_interval=1", f"badam_switch_mode={mode}", "max_steps=2", *fixed]
    training = new_run("method=badam", *options)
    foreseen = training.parts.optimizer.find_reached(2)
    training.fit()
    assert training.parts.optimizer.reached == foreseen
    assert len(foreseen) == (1 if mode == "fixed" else 2)
    training.session.recorder.close()


def test_a_mask_counts_its_share_alone(new_run, caplog):
    training = new_run("method=badam_ratio", "badam_switch_interval=2", "max_steps=4")
    counts = training.parts.parameters
    may_train = sum(one.numel() for one in training.parts.model.parameters() if one.requires_grad)
    assert 0.05 * may_train <= counts["trainable"] < 0.06 * may_train
    assert 0.09 * may_train < counts["ever_trained"] < 2 * counts["trainable"]
    assert "20 masks take 40 steps, and the budget has 4; 18 of them never train" in caplog.text
    training.session.recorder.close()


def test_a_resumed_run_knows_what_it_had_reached_before(run, tmp_path):
    options = ["method=badam", "badam_switch_interval=1", "save_every=1", "keep_checkpoints=9"]
    whole = run(*options, "max_steps=3")
    (tmp_path / "run" / "result.json").unlink()
    for step in (2, 3):
        (tmp_path / "run" / "checkpoints" / f"step_0000000{step}").rename(tmp_path / str(step))
    resumed = run(*options, "max_steps=3", "resume=auto")
    assert resumed["resumed_at_step"] == 1
    assert resumed["parameters"] == whole["parameters"]
    assert resumed["facts"]["covered_share"] == whole["facts"]["covered_share"]
    assert resumed["facts"]["never_trained"] == whole["facts"]["never_trained"]


def test_a_projection_that_is_never_renewed_is_told_before_and_in_the_record(run, tmp_path, caplog):
    options = ["method=galore", "galore_rank=8", "rerun=true"]
    result = run(*options, "galore_update_interval=4")
    warning = result["facts"]["warnings"][-1]
    assert "the budget has 4 steps, so that the subspace is never renewed" in warning
    assert warning in caplog.text
    begun = read_json(tmp_path / "run" / "run.json")
    assert begun["facts"]["warnings"] == result["facts"]["warnings"]
    result = run(*options, "galore_update_interval=3")
    assert warning.partition("=")[0] not in " ".join(result["facts"]["warnings"])


@pytest.mark.parametrize("method", quick_of(METHODS, "galore", "badam"))
def test_the_embedded_budget_lets_every_method_do_all_that_it_does(settings, untied_model, method):
    """The defaults for the model that ships: nothing is told of a budget that is too short."""
    experiment, chosen, _ = settings(
        f"method={method}", "model.path=tuneoff:tiny", "max_steps=null", "data.limit=null"
    )
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = chosen.prepare(AutoModelForCausalLM.from_pretrained("src/tuneoff/assets/tiny"))
    optimizer = chosen.make_optimizer(model, experiment)
    assert experiment.budget == ("max_steps", 180)
    assert chosen.warn_of_budget(optimizer, 180) == []
