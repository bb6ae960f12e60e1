"""Steps inside the backward pass: each weight's gradient is used and dropped as soon as it is there."""

from typing import Any

import torch


class LayerWise:
    """Steps each weight inside the backward pass and drops its gradient at once.

    It is one optimizer with the ordinary groups, narrowed to one weight for each step: so schedules, logging and
    checkpoints see what they see without layer-wise, where one optimizer a weight hides from all three.
    """

    param_groups: list[dict]

    def step_inside_backward(self, max_weight_grad_norm: float | None) -> None:
        """Register the hooks that step.

        Args:
            max_weight_grad_norm: the norm to which each weight's gradient is clipped by itself; None clips nothing.
        """
        self._norms: list[torch.Tensor] = []
        # By number, since loading a state replaces the group dictionaries.
        owners = {}
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                owners[parameter] = index

        def step_one(parameter: torch.nn.Parameter) -> None:
            """Clip, step and drop the gradient that backward has just finished for `parameter`."""
            assert parameter.grad is not None
            norm = torch.linalg.vector_norm(parameter.grad)
            self._norms.append(norm)
            if max_weight_grad_norm is not None:
                factor = max_weight_grad_norm / (norm + 1e-6)
                parameter.grad.mul_(factor.clamp(max=1.0))
            groups = self.param_groups
            own_group = groups[owners[parameter]]
            self.param_groups = [{**own_group, "params": [parameter]}]
            super(LayerWise, self).step()  # type: ignore[misc]
            self.param_groups = groups
            parameter.grad = None

        for parameter in owners:
            parameter.register_post_accumulate_grad_hook(step_one)

    def gradient_norm(self) -> torch.Tensor:
        """Return the global norm (0-d) of the gradients that this backward pass applied, before they were clipped."""
        norms = torch.stack(self._norms)
        self._norms = []
        return torch.linalg.vector_norm(norms)

    def step(self, closure: Any = None) -> None:
        """Do nothing: every weight has stepped inside the backward pass."""
