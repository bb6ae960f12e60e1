"""AdaLoRA through PEFT: adapters whose ranks shrink as training goes on (Zhang et al. 2023)."""

from dataclasses import dataclass
from typing import Any

from tuneoff.config import ConfigError, Experiment
from tuneoff.methods import register
from tuneoff.methods.peft import Peft


@register
@dataclass
class AdaLoRA(Peft):
    """Adapters in SVD form; PEFT prunes the least important singular values by a schedule that counts steps."""

    def check(self, experiment: Experiment) -> None:
        """Refuse a budget that is not in steps, and steps in which the ranks could not shrink."""
        super().check(experiment)
        kind, steps = experiment.budget
        if kind != "max_steps":
            allowed = "needs max_steps instead: the schedule of the ranks counts steps"
            raise ConfigError(kind, steps, allowed)
        self.total_steps = int(steps)
        shrinking = self.total_steps - self.peft.tfinal
        if self.peft.tinit >= shrinking:
            allowed = f"must be below max_steps - peft.tfinal = {shrinking}"
            raise ConfigError("peft.tinit", self.peft.tinit, allowed)
        if self.peft.target_r >= self.peft.init_r:
            allowed = f"must be below peft.init_r = {self.peft.init_r}"
            raise ConfigError("peft.target_r", self.peft.target_r, allowed)

    def list_options(self) -> dict[str, Any]:
        """Return the arguments of PEFT's config beside its targets."""
        return {**super().list_options(), "total_step": self.total_steps}

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the shared optimizer, which shrinks the ranks after each of its steps."""
        from tuneoff.methods._adalora_optimizer import allocate_ranks

        optimizer = super().make_optimizer(model, experiment)
        return allocate_ranks(optimizer, model.base_model)

    def after_backward(self, model: Any) -> None:
        """Add the gradients of PEFT's regulariser, which it adds to a loss that it computes itself."""
        from tuneoff.methods._adalora_optimizer import add_regulariser

        add_regulariser(model.base_model, self.peft.orth_reg_weight)
