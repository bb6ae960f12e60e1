"""DoRA's layer: PEFT's function in fewer passes over weights and activations. Imports torch at its head."""

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn
from torch.distributed.tensor import DTensor


class LeanDoraLayer(DoraLinearLayer):
    """What DoRA adds to a linear layer's output: (m / n - 1) W x + m / n · s B A x, of which n takes no gradient.

    PEFT multiplies an identity as large as the layer's input by A, and scales B A twice: by s, and at every token by
    m / n and s. Here each is done once, with the same bits where s is a power of two, as it is by default.
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
        factors = self.weight / measure_row_norms(weight, lora_A, lora_B, scaling)  # (out,)
        added = (factors * scaling) * lora_B(lora_A(x))
        added += (factors - 1) * base_result
        return added


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
    down: Any,
    up: Any,
    scaling: float,
) -> torch.Tensor:
    """The norm of each row of W + s B A, (out,).

    Args:
        weight: W, (out, in).
        down: the linear map by A.
        up: that by B.
        scaling: s.
    """
    added = up(down.weight.T.contiguous()).T.to(weight.dtype)  # (out, in)
    summed = torch.add(weight, added, alpha=scaling)
    return torch.linalg.vector_norm(summed, dim=1).to(weight.dtype)
