"""DoRA's layer: PEFT's function in fewer passes over weights and activations. Imports torch at its head."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn
from torch.distributed.tensor import DTensor


class LeanDoraLayer(DoraLinearLayer):
    """What DoRA adds to a linear layer's output: (m / n - 1) W x + m / n · s B A x, of which n takes no gradient.

    PEFT multiplies an identity by A and B to have B A, adds it to W, and takes the norm of each row: several matrices
    as large as W, in each forward pass. And it scales B A x twice, at every token. Here the norm is taken of the parts,
    and B is scaled.
    """

    def forward(
        self,
        x: Any,
        *,
        lora_A: Any,  # noqa: N803 (PEFT's names)
        lora_B: Any,  # noqa: N803
        scaling: float,
        base_layer: Any,
        base_result: Any = None,
        adapter_name: str = "default",
    ) -> torch.Tensor:
        """(…, in) to (…, out), by the arguments of PEFT's layer."""
        if not has_plain_weights(base_layer, lora_A, lora_B):
            return super().forward(
                x,
                lora_A=lora_A,
                lora_B=lora_B,
                scaling=scaling,
                base_layer=base_layer,
                base_result=base_result,
                adapter_name=adapter_name,
            )
        weight = base_layer.weight.to(x.dtype)
        if self.fan_in_fan_out:
            weight = weight.T  # (out, in)
        if base_result is None:
            base_result = nn.functional.linear(x, weight)
        elif base_layer.bias is not None:
            base_result = base_result - base_layer.bias
        norms = measure_row_norms(weight, lora_A.weight, lora_B.weight, scaling)
        factors = self.weight / norms.to(weight.dtype)  # (out,)
        scaled_up = (factors * scaling).view(-1, 1) * lora_B.weight  # (out, r)
        return (factors - 1) * base_result + nn.functional.linear(lora_A(x), scaled_up)


def has_plain_weights(base_layer: Any, down: Any, up: Any) -> bool:
    """Whether the weights of a layer can be read as they are: neither quantised nor split over ranks."""
    weight = base_layer.weight
    if not weight.is_floating_point() or up.bias is not None:
        return False
    # ZeRO-3 gives a weight its values while its own module runs.
    return not any(
        isinstance(one, DTensor) or hasattr(one, "ds_id")
        for one in (weight, down.weight, up.weight)
    )


@torch.no_grad()
def measure_row_norms(
    weight: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """The norm of each row of W + s B A, (out,), without that matrix: |W|² + 2 s W·BA + s² |BA|².

    Args:
        weight: W, (out, in).
        down: A, (r, in).
        up: B, (out, r).
        scaling: s.
    """
    down = down.to(weight.dtype)
    up = up.to(weight.dtype)
    own = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
    crossed = ((weight @ down.T) * up).sum(1, dtype=torch.float32)
    added = ((up @ (down @ down.T)) * up).sum(1, dtype=torch.float32)
    squares = own + 2 * scaling * crossed + scaling**2 * added
    # Rounding must not make a row's square negative.
    return squares.clamp(min=0).sqrt()


def use_lean_layers(model: Any) -> None:
    """Let DoRA's layers compute their function in fewer passes; names, weights and what is saved stay."""
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for layer in module.lora_magnitude_vector.values():
            if type(layer) is DoraLinearLayer:
                layer.__class__ = LeanDoraLayer
