"""LISA: embeddings and head always train, and of the decoder layers a few that are drawn anew (Pan et al. 2024)."""

from dataclasses import dataclass
from typing import Any

from tuneoff.config import BASIC, ConfigError, Experiment, at_least, derive_seed
from tuneoff.methods import Method, register


@register
@dataclass
class LISA(Method):
    """A few random decoder layers at one time, and all that lies outside the layers."""

    own_family = "block"
    optimizers = BASIC
    lisa_layers: int = at_least(2, 1)
    """How many decoder layers train at one time."""
    lisa_switch_interval: int = at_least(20, 1)
    """Optimizer steps until other layers are drawn."""

    def check(self, experiment: Experiment) -> None:
        """Refuse several processes, which look for the gradients of the first layers alone."""
        if experiment.num_processes > 1:
            allowed = (
                f"must be 1 where method={experiment.method}: the processes would "
                "go on averaging the gradients of the layers that trained first"
            )
            raise ConfigError("num_processes", experiment.num_processes, allowed)

    def prepare(self, model: Any) -> Any:
        """Return the same model.

        Raises:
            ConfigError: more layers at one time than the model has.
        """
        from tuneoff.models.layers import find_decoder_layers

        _, layers = find_decoder_layers(model)
        if self.lisa_layers > len(layers):
            allowed = f"this model has {len(layers)} decoder layers"
            raise ConfigError("lisa_layers", self.lisa_layers, allowed)
        return model

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the shared optimizer, which draws other layers as it steps."""
        from tuneoff.methods._lisa_optimizer import draw_layers
        from tuneoff.models.layers import find_decoder_layers

        optimizer = super().make_optimizer(model, experiment)
        _, layers = find_decoder_layers(model)
        seed = derive_seed(experiment.seed, "blocks")
        return draw_layers(optimizer, layers, self.lisa_layers, self.lisa_switch_interval, seed)

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Return every parameter: each layer may be drawn."""
        return {name for name, _ in model.named_parameters()}

    def count_reached(self, model: Any, optimizer: Any, steps: float) -> int:
        """Return how many weights lie outside the layers, or in layers that had a turn or have one within `steps`."""
        from tuneoff.models.layers import count_weights

        missed = optimizer.find_missed(steps)
        parameters = [one for one in model.parameters() if one not in missed]
        return sum(map(count_weights, parameters))

    def warn_of_budget(self, optimizer: Any, steps: float) -> list[str]:
        """Say where the budget ends before each layer was drawn."""
        missed = optimizer.count_missed_layers(steps)
        if not missed:
            return []
        return [
            f"lisa_switch_interval={self.lisa_switch_interval}: in a budget of {steps:.12g} steps "
            f"{missed} of the layers are never drawn"
        ]

    def final_facts(self, model: Any, optimizer: Any) -> dict:
        """Say what the run has reached, and what it has not."""
        from tuneoff.models.layers import count_all_weights

        missed = optimizer.find_missed(0)
        names = [name for name, parameter in model.named_parameters() if parameter in missed]
        share = self.count_reached(model, optimizer, 0) / count_all_weights(model)
        return {"covered_share": share, "never_trained": names}

    def coverage(self, model: Any) -> float:
        """Return the share of the weights that may train: all."""
        from tuneoff.models.layers import share_of_weights

        return share_of_weights(model, {name for name, _ in model.named_parameters()})
