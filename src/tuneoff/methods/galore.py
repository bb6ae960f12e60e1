"""GaLore: all weights train, and Adam's state lives in a low-rank projection of the gradient (Zhao et al. 2024)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tuneoff.config import (
    BASIC,
    ConfigError,
    Experiment,
    MixedPrecision,
    Optimizer,
    above,
    at_least,
    is_split,
    names,
)
from tuneoff.methods import Method, register


class Projection(Enum):
    """The side of the gradient that galore-torch projects; std and reverse_std choose it by the matrix's shape."""

    std = "std"
    reverse_std = "reverse_std"
    right = "right"
    left = "left"
    full = "full"


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
            self._check_layerwise(experiment)
        elif self.galore_max_weight_grad_norm is not None:
            raise ConfigError(
                "galore_max_weight_grad_norm",
                self.galore_max_weight_grad_norm,
                "needs galore_layerwise=true; max_grad_norm clips otherwise",
            )

    @staticmethod
    def _check_layerwise(experiment: Experiment) -> None:
        """Refuse what needs all gradients at once, since each is dropped inside the backward pass."""
        if experiment.num_processes > 1:
            raise ConfigError(
                "num_processes",
                experiment.num_processes,
                "must be 1 where galore_layerwise=true: each process "
                "would step on its own gradient before the others' is added",
            )
        if experiment.gradient_accumulation_steps > 1:
            raise ConfigError(
                "gradient_accumulation_steps",
                experiment.gradient_accumulation_steps,
                "must be 1 where galore_layerwise=true, since each backward pass steps",
            )
        if experiment.max_grad_norm is not None:
            raise ConfigError(
                "max_grad_norm",
                experiment.max_grad_norm,
                "must be null where galore_layerwise=true, since no "
                "global norm exists before the step; galore_max_weight_grad_norm clips each weight",
            )
        if experiment.mixed_precision is MixedPrecision.fp16:
            raise ConfigError(
                "mixed_precision",
                experiment.mixed_precision,
                "must be no or bf16 where galore_layerwise=true, since the loss scale is still on",
            )

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return galore-torch's optimizer, with the targeted matrices in projected groups.

        Raises:
            ConfigError: a rank above a targeted matrix's small side, or an unknown target.
        """
        from tuneoff.methods._galore_optimizers import choose_class, choose_settings
        from tuneoff.models.optimizers import check_eight_bit

        if experiment.optimizer is Optimizer.adamw_8bit:
            check_eight_bit(experiment)
        optimizer_class = choose_class(experiment.optimizer, self.galore_layerwise)
        groups = self._make_groups(model, experiment)
        optimizer = optimizer_class(groups, **choose_settings(experiment))
        if self.galore_refresh is Refresh.staggered:
            optimizer.stagger_refreshes()
        if self.galore_layerwise:
            optimizer.step_inside_backward(self.galore_max_weight_grad_norm)
        return optimizer

    def _make_groups(self, model: Any, experiment: Experiment) -> list[dict]:
        """Split what trains into projected groups and ordinary ones, each with and without weight decay."""
        from tuneoff.methods._ranks import check_rank
        from tuneoff.models.layers import find_targets
        from tuneoff.models.optimizers import parameter_groups

        targets = find_targets(model, self.galore_target, "galore_target")
        check_rank(self.galore_rank, "galore_rank", targets, "galore_target")
        # How many experts' matrices each targeted parameter holds, by the parameter; 0: it is one matrix, and no stack.
        experts = {id(layer.weight): 0 for layer in targets.linears.values()}
        for stack in targets.experts.values():
            experts[id(stack.parameter)] = stack.experts
        ordinary = []
        named_by_count: dict[int, list] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) in experts:
                count = experts[id(parameter)]
                named_by_count.setdefault(count, []).append((name, parameter))
            else:
                ordinary.append((name, parameter))
        lr = experiment.lr
        decay = experiment.weight_decay
        groups = []
        for count, named in sorted(named_by_count.items()):
            groups += parameter_groups(named, lr, decay, **self._describe_projection(count))
        return [*groups, *parameter_groups(ordinary, lr, decay)]

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
        interval = self.galore_update_interval
        if steps > interval or steps == 1 or self.galore_refresh is Refresh.staggered:
            return []
        return [
            f"galore_update_interval={interval}: the budget has {steps:g} steps, so that the subspace is never renewed"
        ]

    def coverage(self, model: Any) -> float:
        """Return the share of the weights whose gradients are projected; the rest is plain Adam."""
        from tuneoff.models.layers import find_targets, share_of_weights

        targets = find_targets(model, self.galore_target, "galore_target")
        return share_of_weights(model, targets.parameter_names())
