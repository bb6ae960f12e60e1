"""AdaLoRA through PEFT: adapters whose ranks shrink as training goes on (Zhang et al. 2023)."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, Experiment, Optimizer
from tuneoff.methods import LoadBase, register
from tuneoff.methods.peft import Peft

REGROWN = "the last steps would train again what was pruned before them"


@register
@dataclass
class AdaLoRA(Peft):
    """Adapters in SVD form; PEFT prunes the least important singular values by a schedule that counts steps."""

    # A schedule-free optimizer changes the gradients, which the pruning reads, and averages what was pruned back in.
    optimizers = tuple(choice for choice in Optimizer if choice is not Optimizer.schedulefree)

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
        if self.peft.tfinal == 0 and (self.total_steps - 1) % self.peft.deltaT:
            allowed = f"must divide max_steps - 1 = {self.total_steps - 1}, or peft.tfinal be at least 1: {REGROWN}"
            raise ConfigError("peft.deltaT", self.peft.deltaT, allowed)
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

    def weights_to_save(self, model: Any) -> dict[str, Any]:
        """Return the adapter at the ranks that its weights have."""
        from tuneoff.methods._adalora_optimizer import ranks_of_weights

        with ranks_of_weights(model.base_model):
            return super().weights_to_save(model)

    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the adapter at the ranks that its weights have."""
        from tuneoff.methods._adalora_optimizer import ranks_of_weights

        with ranks_of_weights(model.base_model):
            return super().export(model, folder, merged)

    def read_back(self, model: Any, folder: Path, load_base: LoadBase) -> Any:
        """Load the saved adapter on the base."""
        with warnings.catch_warnings():
            # PEFT takes AdaLoRA's list of ranks for LoRA's, and an adapter that has lost all of them for broken.
            warnings.filterwarnings("ignore", "The following rank_pattern keys did not match")
            warnings.filterwarnings("ignore", r"\d+ LoRA tensor\(s\) have invalid shape")
            return super().read_back(model, folder, load_base)
