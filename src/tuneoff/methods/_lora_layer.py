"""LoRA's layer: PEFT's function in fewer passes over the layer's output. Imports torch at its head."""

import math
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear
from torch import nn

from tuneoff.methods._dora_layer import LeanDoraLayer, has_plain_weights


class LeanLoraLinear(Linear):
    """A linear layer with an adapter: W x + s B A x.

    PEFT writes B A x, s times it, and the sum, each into a new tensor as large as the layer's output, and scales the
    gradient at every output. Here the sum is made in place, and where s is a power of two, as it is by default, s meets
    the r columns of A x. The bits are PEFT's.
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
        # A power of two changes no digit, but in float16 numbers may leave the range on another way.
        if math.frexp(scaling)[0] == 0.5 and columns.dtype is not torch.float16:
            result += up(columns * scaling)
        else:
            result += up(columns) * scaling
        return result


def is_plain(layer: Linear) -> bool:
    """Whether one adapter of plain LoRA is active on a linear layer, whose output may be changed in place."""
    if layer.disable_adapters or layer.merged or type(layer.base_layer) is not nn.Linear:
        return False
    if len(layer.active_adapters) != 1:
        return False
    adapter = layer.active_adapters[0]
    if adapter not in layer.lora_A or adapter in layer.lora_variant:
        return False
    return has_plain_weights(layer.base_layer, layer.lora_A[adapter], layer.lora_B[adapter])


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
