"""APOLLO: all weights train, and a projected Adam says how much of each channel's gradient (Zhu et al. 2024)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from tuneoff.config import above, at_least, names
from tuneoff.methods import register
from tuneoff.methods._projected import Projected


class Projector(Enum):
    """How a gradient is projected."""

    random = "random"
    svd = "svd"


class ScaleType(Enum):
    """What has a factor of its own."""

    channel = "channel"
    tensor = "tensor"


@register
@dataclass
class Apollo(Projected):
    """APOLLO on linear layers by apollo-torch, plain Adam on the rest. The option names are LLaMA-Factory's."""

    packages = ("apollo-torch",)
    prefix = "apollo"
    module = "apollo_torch"
    extra = "apollo"
    elsewhere: ClassVar[dict[str, str]] = {"use_apollo=true": "apollo"}
    foreign_ignored: ClassVar[dict[str, str]] = {
        "apollo_layerwise": "saves gradients there, and ignores schedule and clip; here the step is a whole one"
    }
    foreign_refused: ClassVar[dict[str, tuple[Any, str]]] = {
        "apollo_scale_front": (False, "needs the limiter of growth before the factors"),
        "apollo_proj_type": ("std", "is std here, which projects the longer side"),
    }
    apollo_target: Any = names("all")
    """The linear layers whose gradients are projected; all leaves out the output head."""
    apollo_rank: int = at_least(16, 1)
    """The rank of the projected gradient; at most the smaller side of each layer's matrix."""
    apollo_update_interval: int = at_least(200, 1)
    """Optimizer steps between two projections."""
    apollo_scale: float = above(32.0, 0)
    """The square of the factor on a projected matrix's update."""
    apollo_proj: Projector = Projector.random
    """How a gradient is projected: by random vectors, or by its own singular vectors."""
    apollo_scale_type: ScaleType = ScaleType.channel
    """What has a factor of its own: each channel of a matrix, or each matrix."""

    def describe_projection(self) -> dict:
        """Return the keys of a projected group, as apollo-torch names them."""
        return {
            "rank": self.apollo_rank,
            "update_proj_gap": self.apollo_update_interval,
            "scale": self.apollo_scale,
            "proj": self.apollo_proj.name,
            "proj_type": "std",
            "scale_type": self.apollo_scale_type.name,
        }

    def choose_class(self) -> type:
        """Return apollo-torch's AdamW, mended."""
        from tuneoff.methods._apollo_optimizer import ApolloAdamW

        return ApolloAdamW
