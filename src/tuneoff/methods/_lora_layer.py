"""LoRA's layer: PEFT's function in fewer passes over the layer's output. Imports torch at its head."""

import math
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear
from torch import nn

from tuneoff.methods._dora_layer import LeanDoraLayer


class LeanLoraLinear(Linear):
    """A linear layer with an adapter: W x + s B A x.

    PEFT writes B A x, s times it, and the sum, each into a new tensor as large as the layer's output, and scales the
    gradient at every output. Here s meets the r columns of A x and the sum is made in place, with the same bits where
    s is a power of two, as it is by default; elsewhere s is applied where PEFT does.
    """

    def forward(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        """(…, in) to (…, out), by the arguments of PEFT's layer."""
        if options or not is_plain(self):
            return super().forward(x, **options)
        adapter = self.active_adapters[0]
        down: Any = self.lora_A[adapter]
        up: Any = self.lora_B[adapter]
        scaling = self.scaling[adapter]
        result = self.base_layer(x)
        inputs = self.lora_dropout[adapter](self._cast_input_dtype(x, down.weight.dtype))
        columns = down(inputs)  # (…, r)
        if math.frexp(scaling)[0] == 0.5 and up.bias is None:  # a power of two
            result += up(columns * scaling)
        else:
            result += up(columns) * scaling
        return result


def is_plain(layer: Linear) -> bool:
    """Whether a layer adds one adapter of LoRA itself to the fresh output of a linear layer."""
    if layer.disable_adapters or layer.merged or type(layer.base_layer) is not nn.Linear:
        return False
    if len(layer.active_adapters) != 1:
        return False
    adapter = layer.active_adapters[0]
    return adapter in layer.lora_A and adapter not in layer.lora_variant


def use_lean_layers(model: Any) -> None:
    """Let LoRA's and DoRA's layers compute their function in fewer passes; names, weights and what is saved stay."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = LeanLoraLinear
        if not isinstance(module, LoraLayer):
            continue
        for layer in module.lora_magnitude_vector.values():
            if type(layer) is DoraLinearLayer:
                layer.__class__ = LeanDoraLayer
