"""GaLore's optimizers: galore-torch's classes, mended, and their layer-wise form. Imports torch at its head."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import galore_torch
import torch

from tuneoff.config import Experiment, Optimizer
from tuneoff.methods._galore_projectors import Projector, make_projector
from tuneoff.models.optimizers import ADAFACTOR, BETAS, EPS

UPSTREAM = {
    Optimizer.adamw: galore_torch.GaLoreAdamW,
    Optimizer.adamw_8bit: galore_torch.GaLoreAdamW8bit,
    Optimizer.adafactor: galore_torch.GaLoreAdafactor,
}


def choose_class(kind: Optimizer, layerwise: bool) -> type:
    """Return galore-torch's optimizer class for `kind`, with the classes below in front of it."""
    upstream = UPSTREAM[kind]
    bases: tuple[type, ...] = (PlainState, upstream)
    if kind is Optimizer.adamw_8bit:
        bases = (NoWait, *bases)
    if layerwise:
        bases = (LayerWise, *bases)
    return type(f"GaLore{upstream.__name__}", bases, {})


def choose_settings(experiment: Experiment) -> dict:
    """Return the arguments of galore-torch's optimizer class beside its groups."""
    if experiment.optimizer is Optimizer.adafactor:
        return {"lr": experiment.lr, **ADAFACTOR}
    adam = {"lr": experiment.lr, "betas": BETAS, "eps": EPS}
    if experiment.optimizer is Optimizer.adamw_8bit:
        # galore-torch passes these two by position, and bitsandbytes now has max_unorm and skip_zeros in their place.
        return {**adam, "percentile_clipping": 0.0, "block_wise": False}
    return {**adam, "no_deprecation_warning": True}


class PlainState:
    """In front of a galore-torch optimizer: a state of tensors and plain values alone, and our projector."""

    param_groups: list[dict]
    state: dict
    # Steps by which a weight's projection is renewed before the others'; where it is not named, 0.
    refresh_offsets: Mapping[torch.Tensor, int] = MappingProxyType({})

    def stagger_refreshes(self) -> None:
        """Spread the renewals evenly over the interval, so that no step does all of them."""
        projected = []
        for group in self.param_groups:
            if "rank" in group:
                projected += group["params"]
        interval = self.refresh_interval
        self.refresh_offsets = {
            parameter: index * interval // len(projected)
            for index, parameter in enumerate(projected)
        }

    @property
    def refresh_interval(self) -> int:
        """Steps between two projections: the period after which a step's memory repeats."""
        for group in self.param_groups:
            if "rank" in group:
                return group["update_proj_gap"]
        return 0

    @refresh_interval.setter
    def refresh_interval(self, steps: int) -> None:
        for group in self.param_groups:
            if "rank" not in group:
                continue
            group["update_proj_gap"] = steps
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if "projector" in state:
                    state["projector"].update_proj_gap = steps

    def step(self, closure: Any = None) -> Any:
        """As upstream, which makes a projector of its own kind where it finds none."""
        for group in self.param_groups:
            if "rank" not in group:
                continue
            for parameter in group["params"]:
                if parameter.grad is None or "projector" in self.state[parameter]:
                    continue
                self.state[parameter]["projector"] = self._make_projector(group, parameter)
        return super().step(closure)  # type: ignore[misc]

    def _make_projector(self, group: dict, parameter: torch.Tensor) -> Projector:
        """Return the projector of a weight in a group."""
        return make_projector(group, self.refresh_offsets.get(parameter, 0))

    def state_dict(self) -> dict:
        """As upstream, but a projector becomes its matrix: a pickled object cannot be loaded safely."""
        plain = super().state_dict()  # type: ignore[misc]
        for index, state in plain["state"].items():
            if "projector" in state:
                matrix = state["projector"].ortho_matrix
                plain["state"][index] = {**state, "projector": {"ortho_matrix": matrix}}
        return plain

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave; each matrix becomes a projector again, as its group now describes it."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if "projector" in state:
                    projector = self._make_projector(group, parameter)
                    projector.ortho_matrix = state["projector"]["ortho_matrix"]
                    state["projector"] = projector


class NoWait:
    """In front of galore-torch's 8-bit AdamW, which waits for CUDA after each weight: there may be none, and none must.

    The kernels run in the order in which they are called; bitsandbytes' own optimizer waits for its paged states alone.
    """

    def step(self, closure: Any = None) -> Any:
        """As upstream, without the wait."""
        with patch.object(torch.cuda, "synchronize"):
            return super().step(closure)  # type: ignore[misc]


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
