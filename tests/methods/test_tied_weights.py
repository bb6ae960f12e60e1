"""An embedding and a head that are one weight, by whichever name and with whichever method."""

import math

import pytest
import torch
from adapted_models import GPT2, LLAMA, UNTIED, assert_exported, build, difference, logits_of, train

from tuneoff.config import ConfigError


@pytest.mark.parametrize("target", ["[q_proj,lm_head]", "[q_proj,embed_tokens]"])
@pytest.mark.parametrize(
    "method",
    [
        ["method=lora"],
        ["method=rslora"],
        ["method=loraplus"],
        ["method=pissa"],
        ["method=pissa", "pissa_convert=true", "save_model=true"],
    ],
)
def test_an_adapter_on_the_tied_weight_is_one_in_both_uses(prepare, tmp_path, method, target):
    model, options, experiment = prepare(LLAMA, *method, f"lora_target={target}", "lr=1e-2")
    start = logits_of(build(LLAMA))
    assert difference(logits_of(model), start) <= 1e-5  # the first loss is the base model's
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sum("lora_embedding" in name for name in trainable) == 2
    assert not any("lm_head" in name for name in trainable)
    train(model, options, experiment)
    assert difference(logits_of(model), start) > 1e-3
    assert "tied_weights" in options.facts(model)
    assert_exported(LLAMA, model, options, tmp_path)


def test_an_adapter_of_the_head_alone_merges_into_the_head_alone(settings, tmp_path):
    """One that PEFT made elsewhere, on a tied model."""
    from peft import LoraConfig, get_peft_model

    foreign = get_peft_model(build(LLAMA), LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    with torch.no_grad():
        foreign.get_output_embeddings().lora_B["default"].weight.normal_()
    foreign.save_pretrained(tmp_path / "foreign")
    _, method, _ = settings("method=lora")
    method.adapter_path = str(tmp_path / "foreign")
    model = method.prepare(build(LLAMA))
    assert difference(logits_of(model), logits_of(foreign)) <= 1e-6
    assert_exported(LLAMA, model, method, tmp_path)


def test_dora_on_the_tied_weight_is_refused(prepare):
    with pytest.raises(ConfigError, match=r"lora_target=\[q_proj,lm_head\]: names the weight that"):
        prepare(LLAMA, "method=dora", "lora_target=[q_proj,lm_head]")
    model, _, _ = prepare(UNTIED, "method=dora", "lora_target=[q_proj,lm_head]")
    assert math.isfinite(float(logits_of(model).sum()))


@pytest.mark.parametrize("shape", [LLAMA, GPT2])
@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lora", "additional_target=[{head}]"],
        ["method=lora", "additional_target=[{embeddings}]"],
        ["method=freeze", "freeze_extra_modules=[{head}]", "freeze_trainable_layers=1"],
        ["method=freeze", "freeze_extra_modules=[{embeddings}]", "freeze_trainable_layers=1"],
        ["method=galore", "galore_rank=4", "galore_target=[{head}]"],
        ["method=galore", "galore_rank=4", "galore_target=[{embeddings}]"],
        ["method=badam", "badam_include_embedding=true", "badam_switch_interval=1"],
        ["method=badam", "badam_include_lm_head=true", "badam_switch_interval=1"],
        ["method=badam_ratio", "badam_include_lm_head=true"],
        ["method=full"],
    ],
)
def test_the_tied_weight_is_one_by_whichever_name(prepare, shape, overrides):
    embeddings = "embed_tokens" if shape is LLAMA else "wte"
    words = [word.format(head="lm_head", embeddings=embeddings) for word in overrides]
    model, options, experiment = prepare(shape, *words, "lr=1e-2")
    train(model, options, experiment, steps=4)
    head = model.get_output_embeddings().weight
    assert torch.equal(head, model.get_input_embeddings().weight)
    assert not torch.equal(head, build(shape).get_output_embeddings().weight)
    assert options.facts(model)["tied_weights"].startswith("the output head and the embeddings are")


def test_nothing_is_said_of_a_tied_weight_that_stays(prepare):
    for method in ("lora", "freeze", "badam"):
        model, options, _ = prepare(LLAMA, f"method={method}")
        assert "tied_weights" not in options.facts(model)
