"""Fira: GaLore's projected Adam, and beside it what the projection leaves of the gradient (Chen et al. 2024)."""

from dataclasses import dataclass
from typing import Any

from tuneoff.config import above, at_least, names
from tuneoff.methods import register
from tuneoff.methods._projected import Projected, Projection


@register
@dataclass
class Fira(Projected):
    """Fira on linear layers by pytorch-optimizer, plain Adam on the rest."""

    packages = ("pytorch-optimizer",)
    prefix = "fira"
    module = "pytorch_optimizer"
    extra = "optimizers"
    fira_target: Any = names("all")
    """The linear layers whose gradients are projected; all leaves out the output head."""
    fira_rank: int = at_least(16, 1)
    """The rank of the projected gradient; at most the smaller side of each layer's matrix."""
    fira_update_interval: int = at_least(200, 1)
    """Optimizer steps between two projections."""
    fira_scale: float = above(0.25, 0)
    """The factor on a projected update."""
    fira_proj_type: Projection = Projection.std
    """The side of the gradient that is projected; std and reverse_std choose it by the matrix's shape."""

    def describe_projection(self) -> dict:
        """Return the keys of a projected group, as pytorch-optimizer names them."""
        return {
            "rank": self.fira_rank,
            "update_proj_gap": self.fira_update_interval,
            "scale": self.fira_scale,
            "projection_type": self.fira_proj_type.name,
        }

    def choose_class(self) -> type:
        """Return pytorch-optimizer's Fira, mended."""
        from tuneoff.methods._fira_optimizer import FiraAdamW

        return FiraAdamW
