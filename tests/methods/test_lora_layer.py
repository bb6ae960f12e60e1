"""LoRA's layer in fewer passes is PEFT's function to the last bit, forward and backward, and PEFT's own elsewhere."""

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_dora import run_once
from torch import nn
from transformers.pytorch_utils import Conv1D

from tuneoff.methods._lora_layer import LeanLoraLinear, is_plain, use_lean_layers

INPUTS = torch.randn(2, 5, 14, generator=torch.Generator().manual_seed(3))


def make_adapted(kind: str = "plain", **settings):
    """A linear layer of each kind with an adapter that is not zero."""
    torch.manual_seed(0)
    inner = Conv1D(10, 14) if kind == "conv1d" else nn.Linear(14, 10, bias=kind == "bias")
    defaults = {"r": 4, "lora_alpha": 8, "fan_in_fan_out": kind == "conv1d"}
    config = LoraConfig(target_modules=["0"], **defaults | settings)
    model = get_peft_model(nn.Sequential(inner), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    return model


@pytest.mark.parametrize("kind", ["plain", "bias", "conv1d"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_dropout": 0.3},
        {"lora_alpha": 5},  # no power of two over the rank
        {"use_rslora": True, "r": 3},
        {"lora_bias": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("autocast", [False, True])
def test_fewer_passes_are_pefts_function(kind, settings, autocast):
    if kind == "plain" and settings.get("lora_bias"):
        pytest.skip("PEFT wants a bias to add the adapter's to")
    model = make_adapted(kind, **settings)
    around = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with around:
        expected = run_once(model, INPUTS)
    names = [name for name, _ in model.named_parameters()]
    use_lean_layers(model)
    layer = model.base_model.model[0]
    assert type(layer) is LeanLoraLinear
    # The others are left to PEFT.
    assert is_plain(layer) == (kind != "conv1d" and "lora_bias" not in settings)
    assert names == [name for name, _ in model.named_parameters()]
    with around:
        lean = run_once(model, INPUTS)
    assert len(lean) == len(expected)
    torch.testing.assert_close(lean, expected, rtol=0, atol=0)


def test_float32_adapters_of_bfloat16_weights_are_pefts():
    model = make_adapted()
    model.base_model.model[0].base_layer.bfloat16()
    expected = run_once(model, INPUTS.bfloat16())
    use_lean_layers(model)
    assert is_plain(model.base_model.model[0])
    torch.testing.assert_close(run_once(model, INPUTS.bfloat16()), expected, rtol=0, atol=0)


def test_an_input_that_takes_a_gradient_has_pefts():
    model = make_adapted()
    gradients = []
    for _ in range(2):
        x = INPUTS.clone().requires_grad_()
        model(x).square().sum().backward()
        gradients.append(x.grad)
        use_lean_layers(model)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_switched_off_merged_and_several_adapters_are_left_to_peft():
    model = make_adapted()
    use_lean_layers(model)
    layer = model.base_model.model[0]
    adapted = model(INPUTS)
    assert is_plain(layer)
    with model.disable_adapter():
        assert not is_plain(layer)
        torch.testing.assert_close(model(INPUTS), layer.base_layer(INPUTS), rtol=0, atol=0)
    model.merge_adapter()
    assert not is_plain(layer)
    torch.testing.assert_close(model(INPUTS), adapted)
    model.unmerge_adapter()
    model.add_adapter("second", model.peft_config["default"])
    layer.set_adapter(["default", "second"])
    assert not is_plain(layer)
    torch.testing.assert_close(model(INPUTS), adapted)  # the second one's B is zero


def test_dora_is_left_to_its_own_layer():
    model = make_adapted(use_dora=True)
    use_lean_layers(model)
    assert not is_plain(model.base_model.model[0])
