"""GaLore's optimizers: galore-torch's classes, mended, and their layer-wise form. Imports torch at its head."""

from typing import Any
from unittest.mock import patch

import galore_torch
import torch
from galore_torch.galore_projector import GaLoreProjector

from tuneoff.config import Experiment, Optimizer
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


class Projector(GaLoreProjector):
    """galore-torch's projector, mended: no LinAlgError on a non-finite gradient, and reverse_std at full rank."""

    ortho_matrix: Any

    def get_orthogonal_matrix(self, weights: Any, rank: int, type: str) -> Any:
        """As upstream, but a gradient that is not finite raises no error.

        The loop reports such a gradient as `diverged at step n`; an SVD would raise before it can.
        """
        finite = weights.nan_to_num(0.0, 0.0, 0.0)
        return super().get_orthogonal_matrix(finite, rank, type)

    def project_back(self, low_rank_grad: Any) -> Any:
        """Take a gradient of shape (r, n) or (m, r) to the weight's (m, n), scaled.

        Upstream's reverse_std takes the wrong side where the low-rank gradient is square.
        """
        rows, columns = low_rank_grad.shape
        if self.proj_type == "reverse_std" and rows == columns:
            rank, width = self.ortho_matrix.shape
            if rank < width:
                return low_rank_grad @ self.ortho_matrix * self.scale
        return super().project_back(low_rank_grad)


class ExpertsProjector(Projector):
    """The same projection for each matrix of a stack of experts, whose singular vectors are its own.

    The gradient has the shape (experts, m, n), or (experts · m, n) where the model keeps the experts one below the
    other; the low-rank gradient has (experts, r, n), (experts, m, r), or (experts, r, r) for `full`.
    """

    experts: int
    ortho_matrix: Any  # left and right singular vectors

    def project(self, full_rank_grad: torch.Tensor, iter: int) -> torch.Tensor:
        """Return the low-rank gradients of all experts; renew their projections where the interval is over."""
        self.full_shape = full_rank_grad.shape
        stack = full_rank_grad.reshape(self.experts, -1, full_rank_grad.shape[-1])
        if self.ortho_matrix is None or iter % self.update_proj_gap == 0:
            self.ortho_matrix = self._find_singular_vectors(stack)
        left, right = self.ortho_matrix
        low_rank_grad = stack
        if left is not None:
            low_rank_grad = left.mT @ low_rank_grad
        if right is not None:
            low_rank_grad = low_rank_grad @ right.mT
        return low_rank_grad

    def _find_singular_vectors(self, stack: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the first r left (experts, m, r) and right (experts, r, n) singular vectors, None where unused."""
        finite = stack.nan_to_num(0.0, 0.0, 0.0).float()
        left, _, right = torch.linalg.svd(finite, full_matrices=False)
        is_tall = stack.shape[1] >= stack.shape[2]
        sides = {
            "std": ("right" if is_tall else "left",),
            "reverse_std": ("left" if is_tall else "right",),
            "full": ("left", "right"),
        }.get(self.proj_type, (self.proj_type,))
        return [
            left[:, :, : self.rank].to(stack.dtype) if "left" in sides else None,
            right[:, : self.rank, :].to(stack.dtype) if "right" in sides else None,
        ]

    def project_back(self, low_rank_grad: torch.Tensor) -> torch.Tensor:
        """Take the low-rank gradients to the shape of the parameter, scaled."""
        left, right = self.ortho_matrix
        stack = low_rank_grad
        if left is not None:
            stack = left @ stack
        if right is not None:
            stack = stack @ right
        return stack.reshape(self.full_shape) * self.scale


def make_projector(group: dict) -> Projector:
    """Return a projector as a parameter group describes it."""
    projector_class = ExpertsProjector if "experts" in group else Projector
    projector = projector_class(
        group["rank"],
        update_proj_gap=group["update_proj_gap"],
        scale=group["scale"],
        proj_type=group["proj_type"],
    )
    if isinstance(projector, ExpertsProjector):
        projector.experts = group["experts"]
    return projector


class PlainState:
    """In front of a galore-torch optimizer: a state of tensors and plain values alone, and our projector."""

    param_groups: list[dict]
    state: dict

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
                self.state[parameter]["projector"] = make_projector(group)
        return super().step(closure)  # type: ignore[misc]

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
                    projector = make_projector(group)
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
