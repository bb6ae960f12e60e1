"""GaLore: all weights train, and Adam's state lives in a low-rank projection of the gradient (Zhao et al. 2024)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from tuneoff.config import (
    BASIC,
    ConfigError,
    Experiment,
    Optimizer,
    above,
    at_least,
    is_split,
    names,
)
from tuneoff.methods import Method, register
from tuneoff.methods._backward_refusals import check_inside_backward
from tuneoff.methods._projected import Projection, warn_of_interval


class Decomposition(Enum):
    """How a gradient's subspace is found."""

    exact = "exact"
    subspace = "subspace"


class Refresh(Enum):
    """When the projections are renewed."""

    together = "together"
    staggered = "staggered"


@register
@dataclass
class GaLore(Method):
    """GaLore on linear layers with galore-torch's optimizers, plain Adam on the rest.

    The option names are LLaMA-Factory's.
    """

    packages = ("galore-torch",)
    own_family = "projection"
    elsewhere: ClassVar[dict[str, str]] = {
        "use_galore=true": "galore",
        "galore_layerwise=true": "galore_layerwise",
    }
    # 0.25 in its documentation, 2.0 in its code.
    foreign_defaults: ClassVar[dict[str, str]] = {"galore_scale": "2.0"}
    # Its layer-wise mode clips nothing, since the gradients are gone when it would.
    foreign_overrides: ClassVar[dict[str, dict[str, str]]] = {
        "galore_layerwise": {"max_grad_norm": "null"}
    }
    foreign_notes: ClassVar[dict[str, str]] = {
        "galore_layerwise": "layer-wise GaLore there ignores schedule, warm-up and clip, and here the first two count"
    }
    optimizers = BASIC
    galore_target: Any = names("all")
    """The linear layers whose gradients are projected; all leaves out the output head."""
    galore_rank: int = at_least(16, 1)
    """The rank of the projected gradient; at most the smaller side of each layer's matrix."""
    galore_update_interval: int = at_least(200, 1)
    """Optimizer steps between two projections."""
    galore_scale: float = above(0.25, 0)
    """The factor on a projected update."""
    galore_proj_type: Projection = Projection.std
    """The side of the gradient that is projected; std and reverse_std choose it by the matrix's shape."""
    galore_svd: Decomposition = Decomposition.exact
    """How the subspace is found: by galore-torch's full SVD, or by a step of subspace iteration from the last one."""
    galore_refresh: Refresh = Refresh.together
    """Renew all projections in one step of the interval, or a few in each."""
    galore_layerwise: bool = False
    """Step each weight inside the backward pass, and drop its gradient at once."""
    galore_max_weight_grad_norm: float | None = above(None, 0)
    """Scale each weight's own gradient down to this norm, where galore_layerwise=true; null never does."""

    def check(self, experiment: Experiment) -> None:
        """Refuse shards, and what a step inside the backward pass cannot honour."""
        if is_split(experiment.sharding):
            allowed = f"does not run under {experiment.sharding}: its SVD would see shards"
            raise ConfigError("method", experiment.method, allowed)
        if self.galore_layerwise:
            check_inside_backward(
                experiment, "galore_layerwise=true", "galore_max_weight_grad_norm"
            )
        elif self.galore_max_weight_grad_norm is not None:
            raise ConfigError(
                "galore_max_weight_grad_norm",
                self.galore_max_weight_grad_norm,
                "needs galore_layerwise=true; max_grad_norm clips otherwise",
            )

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return galore-torch's optimizer, with the targeted matrices in projected groups.

        Raises:
            ConfigError: a rank above a targeted matrix's small side, or an unknown target.
        """
        from tuneoff.methods._galore_optimizers import choose_class, choose_settings
        from tuneoff.methods._projected_state import make_projected_groups
        from tuneoff.methods._ranks import check_rank
        from tuneoff.models.layers import find_targets
        from tuneoff.models.optimizers import check_eight_bit

        if experiment.optimizer is Optimizer.adamw_8bit:
            check_eight_bit(experiment)
        optimizer_class = choose_class(experiment.optimizer, self.galore_layerwise)
        targets = find_targets(model, self.galore_target, "galore_target")
        check_rank(self.galore_rank, "galore_rank", targets, "galore_target")
        groups = make_projected_groups(model, experiment, targets, self._describe_projection)
        optimizer = optimizer_class(groups, **choose_settings(experiment))
        if self.galore_refresh is Refresh.staggered:
            optimizer.stagger_refreshes()
        if self.galore_layerwise:
            optimizer.step_inside_backward(self.galore_max_weight_grad_norm)
        return optimizer

    def _describe_projection(self, experts: int) -> dict:
        """Return the options as galore-torch names them, for stacks of so many experts, or for matrices (0)."""
        projection = {
            "rank": self.galore_rank,
            "update_proj_gap": self.galore_update_interval,
            "scale": self.galore_scale,
            "proj_type": self.galore_proj_type.name,
            "iterates_subspace": self.galore_svd is Decomposition.subspace,
        }
        if experts:
            # Ours: each expert's matrix has a projection of its own.
            projection["experts"] = experts
        return projection

    def warn_of_budget(self, optimizer: Any, steps: float) -> list[str]:
        """Say where the first projection stays to the end."""
        if self.galore_refresh is Refresh.staggered:
            return []
        return warn_of_interval("galore_update_interval", self.galore_update_interval, steps)

    def coverage(self, model: Any) -> float:
        """Return the share of the weights whose gradients are projected; the rest is plain Adam."""
        from tuneoff.models.layers import find_targets, share_of_weights

        targets = find_targets(model, self.galore_target, "galore_target")
        return share_of_weights(model, targets.parameter_names())
