"""GaLore: all weights train, and Adam's state lives in a low-rank projection of the gradient (Zhao et al. 2024)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tuneoff.config import (
    ConfigError,
    Experiment,
    MixedPrecision,
    Optimizer,
    above,
    at_least,
    names,
)
from tuneoff.methods import Method, register


class Projection(Enum):
    """Sides of the gradient that galore-torch can project."""

    std = "std"
    reverse_std = "reverse_std"
    right = "right"
    left = "left"
    full = "full"


@register
@dataclass
class GaLore(Method):
    """GaLore on linear layers with galore-torch's optimizers, plain Adam on the rest; LLaMA-Factory's option names."""

    packages = ("galore-torch",)
    galore_target: Any = names("all")
    galore_rank: int = at_least(16, 1)
    galore_update_interval: int = at_least(200, 1)
    galore_scale: float = above(0.25, 0)
    galore_proj_type: Projection = Projection.std
    galore_layerwise: bool = False
    galore_max_weight_grad_norm: float | None = above(None, 0)

    def check(self, experiment: Experiment) -> None:
        """Refuse shards, and what a step inside the backward pass cannot honour."""
        if experiment.sharding:
            raise ConfigError(
                "method",
                experiment.method,
                f"does not run under {experiment.sharding}: its SVD would see shards",
            )
        if not self.galore_layerwise:
            if self.galore_max_weight_grad_norm is not None:
                raise ConfigError(
                    "galore_max_weight_grad_norm",
                    self.galore_max_weight_grad_norm,
                    "needs galore_layerwise=true; max_grad_norm clips otherwise",
                )
            return
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
        """Return galore-torch's optimizer with the targeted 2-D weights in projected groups.

        Raises:
            ConfigError: a rank above a targeted matrix's small side, or an unknown target.
        """
        from tuneoff.models.layers import find_linear_layers
        from tuneoff.models.optimizers import check_cuda, parameter_groups

        if experiment.optimizer is Optimizer.adamw_8bit:
            check_cuda(experiment)
        targets = {
            id(module.weight): path
            for path, module in find_linear_layers(
                model, self.galore_target, "galore_target"
            ).items()
        }
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        low = [(name, p) for name, p in named if id(p) in targets]
        for name, parameter in low:
            if self.galore_rank > min(parameter.shape):
                raise ConfigError(
                    "galore_rank",
                    self.galore_rank,
                    f"{name} is {'x'.join(map(str, parameter.shape))}, "
                    f"so at most {min(parameter.shape)}",
                )
        projection = {
            "rank": self.galore_rank,
            "update_proj_gap": self.galore_update_interval,
            "scale": self.galore_scale,
            "proj_type": self.galore_proj_type.name,
        }
        groups = [
            *parameter_groups(low, experiment.lr, experiment.weight_decay, **projection),
            *parameter_groups(
                [item for item in named if id(item[1]) not in targets],
                experiment.lr,
                experiment.weight_decay,
            ),
        ]
        optimizer = _optimizer_class(experiment.optimizer, self.galore_layerwise)(
            groups, **_settings(experiment)
        )
        if self.galore_layerwise:
            optimizer.step_inside_backward(self.galore_max_weight_grad_norm)
        return optimizer


def _settings(experiment: Experiment) -> dict:
    from tuneoff.models.optimizers import ADAFACTOR, BETAS, EPS

    if experiment.optimizer is Optimizer.adafactor:
        return {"lr": experiment.lr, **ADAFACTOR}
    adam = {"lr": experiment.lr, "betas": BETAS, "eps": EPS}
    if experiment.optimizer is Optimizer.adamw_8bit:
        # galore-torch passes these two by position, and bitsandbytes now has max_unorm and skip_zeros in their place.
        return {**adam, "percentile_clipping": 0.0, "block_wise": False}
    return {**adam, "no_deprecation_warning": True}


def _optimizer_class(kind: Optimizer, layerwise: bool) -> type:
    """galore-torch's class for `kind` with the mendings below in front of it."""
    if kind is Optimizer.adamw_8bit:
        from galore_torch.adamw8bit import AdamW8bit as Base
    elif kind is Optimizer.adafactor:
        from galore_torch.adafactor import Adafactor as Base
    else:
        from galore_torch.adamw import AdamW as Base
    return type(
        f"GaLore{Base.__name__}", (_LayerWise, _Mended, Base) if layerwise else (_Mended, Base), {}
    )


def _projector(group: dict) -> Any:
    """galore-torch's projector, mended: no LinAlgError on a non-finite gradient, and reverse_std at full rank."""
    from galore_torch.galore_projector import GaLoreProjector

    class Projector(GaLoreProjector):
        """Made here, so that reading options imports no galore_torch."""

        def get_orthogonal_matrix(self, weights: Any, rank: int, type: str) -> Any:
            """The loop reports a non-finite gradient as `diverged at step n`; an SVD would raise before it can."""
            return super().get_orthogonal_matrix(weights.nan_to_num(0.0, 0.0, 0.0), rank, type)

        def project_back(self, low_rank_grad: Any) -> Any:
            """(r, n) or (m, r) to the weight's (m, n), scaled; upstream takes the wrong side of a square one."""
            square = low_rank_grad.shape[0] == low_rank_grad.shape[1]
            if (
                self.proj_type == "reverse_std"
                and square
                and self.ortho_matrix.shape[0] < self.ortho_matrix.shape[1]
            ):
                return low_rank_grad @ self.ortho_matrix * self.scale
            return super().project_back(low_rank_grad)

    return Projector(
        group["rank"],
        update_proj_gap=group["update_proj_gap"],
        scale=group["scale"],
        proj_type=group["proj_type"],
    )


class _Mended:
    """In front of a galore-torch optimizer: a state of tensors and plain values alone, and our projector."""

    param_groups: list[dict]
    state: dict

    @property
    def refresh_interval(self) -> int:
        """Steps between two projections: the period after which a step's memory repeats."""
        return next((group["update_proj_gap"] for group in self.param_groups if "rank" in group), 0)

    @refresh_interval.setter
    def refresh_interval(self, steps: int) -> None:
        for group in self.param_groups:
            if "rank" in group:
                group["update_proj_gap"] = steps
                for parameter in group["params"]:
                    if "projector" in self.state.get(parameter, {}):
                        self.state[parameter]["projector"].update_proj_gap = steps

    def step(self, closure: Any = None) -> Any:
        """As upstream, which makes a projector of its own kind where it finds none."""
        for group in self.param_groups:
            for parameter in group["params"] if "rank" in group else ():
                if parameter.grad is not None and "projector" not in self.state[parameter]:
                    self.state[parameter]["projector"] = _projector(group)
        return super().step(closure)  # type: ignore[misc]

    def state_dict(self) -> dict:
        """As upstream, but a projector becomes its matrix: a pickled object cannot be loaded safely."""
        plain = super().state_dict()  # type: ignore[misc]
        for index, state in plain["state"].items():
            if "projector" in state:
                plain["state"][index] = {
                    **state,
                    "projector": {"ortho_matrix": state["projector"].ortho_matrix},
                }
        return plain

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` saved; each matrix becomes a projector again, as its group now describes it."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if "projector" in state:
                    matrix, state["projector"] = (
                        state["projector"]["ortho_matrix"],
                        _projector(group),
                    )
                    state["projector"].ortho_matrix = matrix


class _LayerWise:
    """Steps each weight inside the backward pass and drops its gradient at once.

    One optimizer with the ordinary groups, narrowed to one weight for each hook: so schedules, logging and
    checkpoints see what they see without layer-wise, where one optimizer a weight hides from all three.
    """

    param_groups: list[dict]

    def step_inside_backward(self, max_weight_grad_norm: float | None) -> None:
        """Register the hooks; `max_weight_grad_norm` clips each weight's gradient by its own norm."""
        import torch

        self._norms: list[torch.Tensor] = []
        # By number, since loading a state replaces the group dictionaries.
        owner = {
            parameter: index
            for index, group in enumerate(self.param_groups)
            for parameter in group["params"]
        }

        def step_one(parameter: torch.nn.Parameter) -> None:
            """Clip, step and drop the gradient that backward has just finished for `parameter`."""
            assert parameter.grad is not None
            norm = torch.linalg.vector_norm(parameter.grad)
            self._norms.append(norm)
            if max_weight_grad_norm is not None:
                parameter.grad.mul_((max_weight_grad_norm / (norm + 1e-6)).clamp(max=1.0))
            groups = self.param_groups
            self.param_groups = [{**groups[owner[parameter]], "params": [parameter]}]
            super(_LayerWise, self).step()  # type: ignore[misc]
            self.param_groups = groups
            parameter.grad = None

        for parameter in owner:
            parameter.register_post_accumulate_grad_hook(step_one)

    def gradient_norm(self) -> Any:
        """Global norm of the gradients that this backward pass applied and dropped, before their clip; 0-d tensor."""
        import torch

        norms, self._norms = self._norms, []
        return torch.linalg.vector_norm(torch.stack(norms))

    def step(self, closure: Any = None) -> None:
        """Nothing is left to do: every weight stepped inside backward."""
