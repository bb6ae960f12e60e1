"""DoRA's layer in fewer passes is PEFT's function, forward and backward, and PEFT's own where weights are not plain."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from tuneoff.methods._dora_layer import LeanDoraLayer, has_plain_weights
from tuneoff.methods._lora_layer import use_lean_layers


def make_adapted(kind: str, dropout: float):
    """A linear layer of each kind, with DoRA and an adapter that is not zero."""
    torch.manual_seed(0)
    inner = Conv1D(10, 14) if kind == "conv1d" else nn.Linear(14, 10, bias=kind == "bias")
    settings = {"fan_in_fan_out": kind == "conv1d", "lora_dropout": dropout}
    config = LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["0"], **settings)
    model = get_peft_model(nn.Sequential(inner), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    return model


def run_once(model, x: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients."""
    torch.manual_seed(1)
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    return [output, *(one.grad for one in model.parameters() if one.grad is not None)]


@pytest.mark.parametrize("kind", ["plain", "bias", "conv1d"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fewer_passes_are_pefts_function(kind, dropout):
    model = make_adapted(kind, dropout)
    x = torch.randn(2, 5, 14)
    expected = run_once(model, x)
    names = [name for name, _ in model.named_parameters()]
    use_lean_layers(model)
    assert any(isinstance(layer, LeanDoraLayer) for layer in model.modules())
    assert names == [name for name, _ in model.named_parameters()]
    lean = run_once(model, x)
    assert len(lean) == len(expected) == 4
    torch.testing.assert_close(lean, expected, rtol=0, atol=0)


def test_weights_that_are_not_there_are_left_to_peft():
    model = make_adapted("plain", 0.0)
    use_lean_layers(model)
    adapted = model.base_model.model[0]
    parts = (adapted.base_layer, adapted.lora_A["default"], adapted.lora_B["default"])
    assert has_plain_weights(*parts)
    parts[0].weight.ds_id = 1  # as under ZeRO-3
    assert not has_plain_weights(*parts)
    lean = run_once(model, torch.ones(1, 2, 14))
    for layer in model.modules():
        if isinstance(layer, LeanDoraLayer):
            layer.__class__ = DoraLinearLayer
    torch.testing.assert_close(lean, run_once(model, torch.ones(1, 2, 14)), rtol=0, atol=0)
