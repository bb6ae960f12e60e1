"""Prompts through PEFT: the input is changed, and no weight: virtual tokens before it, or before each layer's keys."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, Experiment
from tuneoff.methods import LoadBase, register
from tuneoff.methods.peft import Peft

# Types whose virtual tokens are keys and values of each layer, and no input of the first.
KEYS = ("cartridge", "prefix_tuning")


@register
@dataclass
class Prompts(Peft):
    """Trained virtual tokens, `peft.num_virtual_tokens` of them before each row; the model itself stays as it is."""

    def check(self, experiment: Experiment) -> None:
        """Refuse rows of several examples, of which the virtual tokens would reach one, and what needs layers."""
        super().check(experiment)
        self.refuse_unused("peft_target", "is of tuners of layers, and this one changes the input")
        if experiment.packing:
            allowed = (
                "must be false: the virtual tokens stand before a row, not before each example"
            )
            raise ConfigError("packing", True, allowed)
        if experiment.gradient_checkpointing and self.peft.type in KEYS:
            allowed = "must be false: transformers drops the trained keys where layers run again"
            raise ConfigError("gradient_checkpointing", True, allowed)
        self.max_length = experiment.max_length

    def prepare(self, model: Any) -> Any:
        """Return a `PeftModel` around `model` whose logits are those of the row alone.

        Raises:
            ConfigError: virtual tokens for which the model has no positions, or what PEFT refuses.
        """
        from tuneoff.methods._peft_model import leave_out_virtual_tokens
        from tuneoff.models.checks import learned_positions

        tokens = self.peft.num_virtual_tokens
        positions = learned_positions(model)
        if self.max_length + tokens > positions:
            allowed = f"max_length={self.max_length} leaves room for {positions - self.max_length}"
            raise ConfigError("peft.num_virtual_tokens", tokens, allowed)
        model = super().prepare(model)
        leave_out_virtual_tokens(model, tokens)
        return model

    def read_back(self, model: Any, folder: Path, load_base: LoadBase) -> Any:
        """Load the saved virtual tokens; the logits are those of the row alone."""
        from tuneoff.methods._peft_model import leave_out_virtual_tokens

        loaded = super().read_back(model, folder, load_base)
        leave_out_virtual_tokens(loaded, self.peft.num_virtual_tokens)
        return loaded
