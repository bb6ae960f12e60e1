"""GaLore's optimizers: galore-torch's classes, mended. Imports torch at its head."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import galore_torch
import torch

from tuneoff.config import Experiment, Optimizer
from tuneoff.methods._galore_projectors import Projector, make_projector
from tuneoff.methods._inside_backward import LayerWise
from tuneoff.methods._projected_state import ProjectedState
from tuneoff.models.optimizers import ADAFACTOR, BETAS, EPS

UPSTREAM = {
    Optimizer.adamw: galore_torch.GaLoreAdamW,
    Optimizer.adamw_8bit: galore_torch.GaLoreAdamW8bit,
    Optimizer.adafactor: galore_torch.GaLoreAdafactor,
}


def choose_class(kind: Optimizer, layerwise: bool) -> type:
    """Return galore-torch's optimizer class for `kind`, with those that mend it in front of it."""
    upstream = UPSTREAM[kind]
    bases: tuple[type, ...] = (PlainState, upstream)
    if kind is Optimizer.adamw_8bit:
        bases = (NoWait, *bases)
    if layerwise:
        bases = (LayerWise, *bases)
    return type(f"GaLore{upstream.__name__}", bases, {})


def choose_settings(experiment: Experiment) -> dict:
    """Return the arguments of galore-torch's optimizer class beside its groups."""
    if experiment.optimizer is Optimizer.adafactor:
        return {"lr": experiment.lr, **ADAFACTOR}
    adam = {"lr": experiment.lr, "betas": BETAS, "eps": EPS}
    if experiment.optimizer is Optimizer.adamw_8bit:
        # galore-torch passes these two by position, and bitsandbytes now has max_unorm and skip_zeros in their place.
        return {**adam, "percentile_clipping": 0.0, "block_wise": False}
    return {**adam, "no_deprecation_warning": True}


class PlainState(ProjectedState):
    """In front of a galore-torch optimizer: our projectors, and their renewals at steps of their own."""

    # Steps by which a weight's projection is renewed before the others'; where it is not named, 0.
    refresh_offsets: Mapping[torch.Tensor, int] = MappingProxyType({})

    def stagger_refreshes(self) -> None:
        """Spread the renewals evenly over the interval, so that no step does all of them."""
        projected = []
        for group in self.projected_groups():
            projected += group["params"]
        interval = self.refresh_interval
        self.refresh_offsets = {
            parameter: index * interval // len(projected)
            for index, parameter in enumerate(projected)
        }

    def _make_projector(self, group: dict, parameter: torch.Tensor) -> Projector:
        """Return the projector of a weight in a group."""
        return make_projector(group, self.refresh_offsets.get(parameter, 0))


class NoWait:
    """In front of galore-torch's 8-bit AdamW, which waits for CUDA after each weight: there may be none, and none must.

    The kernels run in the order in which they are called; bitsandbytes' own optimizer waits for its paged states alone.
    """

    def step(self, closure: Any = None) -> Any:
        """As upstream, without the wait."""
        with patch.object(torch.cuda, "synchronize"):
            return super().step(closure)  # type: ignore[misc]
