"""What a trained model costs afterwards, as a run measures it: speeds, merging, and the rank of a plain LoRA."""

import pytest
import torch
from helpers import bound

from tuneoff.config import ConfigError
from tuneoff.methods import _peft_model
from tuneoff.training.serving_prompt import make_prompt

SERVING = ["measure_serving=true", "serving_prompt_tokens=24", "serving_new_tokens=6"]
ASKED = [*SERVING, "max_steps=2", "exact_match=null"]


def measured(run, folder, method: str, *options: str) -> dict:
    result = run(f"method={method}", *ASKED, *options, folder=folder)
    assert result["status"] == "finished", result["error"]
    assert result["memory"]["peak_gib"]["serve"] > 0
    return result["serving"]


def test_an_adapter_is_measured_as_it_is_and_merged(run, tmp_path):
    facts = measured(run, tmp_path, "lora", "lora_rank=4", "save_model=true")
    assert facts["merges"] is True and facts["plain_lora_rank"] == 4
    assert (facts["prompt_tokens"], facts["new_tokens"]) == (24, 6)
    for speeds in (facts, facts["merged"]):
        assert speeds["prefill_seconds"] > 0
        assert speeds["decode_tokens_per_second"] is None or speeds["decode_tokens_per_second"] > 0
    # What was trained is read back after a copy was merged: it is as it was.
    assert 0 < facts["merged"]["logits_difference"] < 1e-4


def test_without_an_adapter_nothing_merges(run, tmp_path):
    facts = measured(run, tmp_path, "full")
    assert facts["merges"] is None and facts["plain_lora_rank"] is None and "merged" not in facts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rank"), [("dora", None), ("pissa", 32), ("miss", 64), ("ia3", None)]
)
def test_the_rank_of_a_plain_lora(run, tmp_path, method, rank):
    facts = measured(run, tmp_path, method, *(["lora_rank=16"] if method == "pissa" else []))
    assert facts["merges"] is True and facts["plain_lora_rank"] == rank


def test_a_converted_rank_is_that_of_the_change():
    """MiSS of rank 4 is a plain LoRA of rank 4; a LoRA's own conversion keeps its rank."""
    from peft import LoraConfig, MissConfig, get_peft_model

    for config in (
        MissConfig(r=4, target_modules=["0"]),
        LoraConfig(r=3, target_modules=["0"], init_lora_weights=False),
    ):
        model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(32, 16)), config)
        assert _peft_model.find_converted_rank(model) == config.r


def test_a_prompt_has_as_many_tokens_as_asked(new_run, tmp_path):
    training = new_run("method=lora", *SERVING, folder=tmp_path)
    rows = training.parts.dataset.splits["validation"]
    every = sum(len(row.ids) for row in rows)
    prompt = make_prompt(training.parts.dataset, every + 3)
    assert prompt[: len(rows[0].ids)] == list(rows[0].ids)
    assert len(prompt) == every + 3 and prompt[every:] == list(rows[0].ids[:3])


def test_what_the_model_has_no_positions_for_is_refused(new_run, tmp_path):
    with pytest.raises(ConfigError, match=r"serving_prompt_tokens=600: leaves no room for"):
        new_run("method=lora", *SERVING[:1], "serving_prompt_tokens=600", folder=tmp_path)


def test_a_split_model_serves_nobody(monkeypatch):
    monkeypatch.setattr("tuneoff.config.experiment.get_sharding", lambda: "fsdp2")
    with pytest.raises(ConfigError, match="measure_serving=true: must be false under fsdp2"):
        bound("method=lora", "measure_serving=true")
