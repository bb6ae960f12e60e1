"""LOMO and AdaLOMO (Lv et al. 2023): each weight steps inside the backward pass, with little or no state."""

from dataclasses import dataclass
from typing import Any

from tuneoff.config import ConfigError, Experiment, Optimizer, above, is_split
from tuneoff.methods import Method, register
from tuneoff.methods._backward_refusals import check_inside_backward


@register
@dataclass
class LOMO(Method):
    """All weights train inside the backward pass, by PyTorch's SGD or, adaptive, by transformers' Adafactor."""

    own_family = "full"
    # The optimizer is the method's own: nothing else may be asked for.
    optimizers = (Optimizer.adamw,)
    lomo_adaptive: bool = False
    """AdaLOMO: a factored second moment of each matrix, steps as large as its entries, and no larger on a whole."""
    lomo_max_weight_grad_norm: float | None = above(None, 0)
    """Scale each weight's own gradient down to this norm; null never does."""

    def check(self, experiment: Experiment) -> None:
        """Refuse what a step inside the backward pass cannot honour."""
        cause = f"method={experiment.method}"
        if is_split(experiment.sharding):
            allowed = f"does not run under {experiment.sharding}: it would step on shards"
            raise ConfigError("method", experiment.method, allowed)
        check_inside_backward(experiment, cause, "lomo_max_weight_grad_norm")

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return an optimizer that steps inside the backward pass."""
        from tuneoff.methods._lomo_optimizers import AdaLomo, Lomo
        from tuneoff.models.optimizers import parameter_groups

        optimizer_class: type = AdaLomo if self.lomo_adaptive else Lomo
        groups = parameter_groups(model.named_parameters(), experiment.lr, experiment.weight_decay)
        optimizer = optimizer_class(groups, lr=experiment.lr)
        optimizer.step_inside_backward(self.lomo_max_weight_grad_norm)
        return optimizer
