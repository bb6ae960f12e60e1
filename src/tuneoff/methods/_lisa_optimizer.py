"""LISA's part in an optimizer: the layers that train, drawn anew at each interval. Imports torch at its head."""

import copy
import math
from random import Random
from typing import Any

from torch import nn


class RandomLayers:
    """In front of an optimizer's class: freezes all layers but those drawn, and drops the state of the others.

    What lies outside the layers trains on, and keeps its state; so does a layer that is drawn twice in a row.
    """

    param_groups: list[dict]
    state: dict
    layers: list[list[nn.Parameter]]
    count: int  # of layers that train at one time
    refresh_interval: int  # steps until others are drawn
    random: Random
    steps: int
    active: list[int]
    reached: set[int]  # the layers that have had a step

    def step(self, closure: Any = None) -> Any:
        """As the optimizer's own; then other layers are drawn, where their turn has come."""
        loss = super().step(closure)  # type: ignore[misc]
        self.reached.update(self.active)
        self.steps += 1
        if self.steps % self.refresh_interval == 0:
            self.activate(self._draw(self.random))
        return loss

    def _draw(self, random: Random) -> list[int]:
        """Return the next layers, in order."""
        return sorted(random.sample(range(len(self.layers)), self.count))

    def activate(self, active: list[int]) -> None:
        """Let these layers train, and no others."""
        self.active = active
        for index, parameters in enumerate(self.layers):
            for parameter in parameters:
                parameter.requires_grad_(index in active)
                if index not in active:
                    parameter.grad = None
                    self.state.pop(parameter, None)

    def _find_reached(self, steps: float) -> set[int]:
        """Return the layers that have had a step, or get one within the next `steps`."""
        reached = set(self.reached)
        if not steps:
            return reached
        if math.isinf(steps):
            return set(range(len(self.layers)))
        reached.update(self.active)
        random = copy.deepcopy(self.random)
        first = self.steps // self.refresh_interval
        last = int(self.steps + steps - 1) // self.refresh_interval
        for _ in range(last - first):
            reached.update(self._draw(random))
        return reached

    def count_missed_layers(self, steps: float) -> int:
        """Return how many layers were not reached, and are not within the next `steps`."""
        return len(self.layers) - len(self._find_reached(steps))

    def find_missed(self, steps: float) -> set[nn.Parameter]:
        """Return the parameters of the layers that `count_missed_layers` counts."""
        reached = self._find_reached(steps)
        missed: set[nn.Parameter] = set()
        for index, parameters in enumerate(self.layers):
            if index not in reached:
                missed.update(parameters)
        return missed

    def state_dict(self) -> dict:
        """As the optimizer's own, and where the drawing stands."""
        own = {
            "steps": self.steps,
            "active": self.active,
            "reached": sorted(self.reached),
            "random": self.random.getstate(),
        }
        return {**super().state_dict(), "layers": own}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where `state_dict` was taken."""
        rest = dict(state_dict)
        own = rest.pop("layers")
        super().load_state_dict(rest)  # type: ignore[misc]
        self.steps = own["steps"]
        self.reached = set(own["reached"])
        self.random.setstate(own["random"])
        self.activate(own["active"])


def draw_layers(
    optimizer: Any,
    layers: nn.ModuleList,
    count: int,
    interval: int,
    seed: int,
) -> Any:
    """Put `RandomLayers` in front of an optimizer's class, and draw the first layers.

    Args:
        layers: the model's decoder layers.
        count: how many train at one time.
        interval: steps until others are drawn.
        seed: of the drawing.
    """
    own_class = type(optimizer)
    optimizer.__class__ = type(f"LISA{own_class.__name__}", (RandomLayers, own_class), {})
    optimizer.layers = [list(layer.parameters()) for layer in layers]
    optimizer.count = count
    optimizer.refresh_interval = interval
    optimizer.random = Random(seed)
    optimizer.steps = 0
    optimizer.reached = set()
    optimizer.activate(optimizer._draw(optimizer.random))
    return optimizer
