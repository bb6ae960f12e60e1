"""Projected states: what the optimizers of several packages share whose state lies in a projection of the gradient."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_map

from tuneoff.config import Experiment
from tuneoff.models.layers import Targets
from tuneoff.models.optimizers import parameter_groups


class ProjectedState:
    """In front of a package's optimizer: a state of tensors and plain values alone, though it holds projectors.

    A group is projected where it has a `rank`. Each of its weights then has a `projector` in its state.
    """

    # What a projector learns as it goes; the rest of it is in its group.
    learned: ClassVar[tuple[str, ...]] = ("ortho_matrix",)
    param_groups: list[dict]
    state: Any

    def _make_projector(self, group: dict, parameter: torch.Tensor) -> Any:
        """Return a new projector of a weight, as its group describes it."""
        raise NotImplementedError

    def projected_groups(self) -> Iterator[dict]:
        """Yield the groups whose gradients are projected."""
        for group in self.param_groups:
            if "rank" in group:
                yield group

    @property
    def refresh_interval(self) -> int:
        """Steps between two projections: the period after which a step's memory repeats."""
        for group in self.projected_groups():
            return group["update_proj_gap"]
        return 0

    @refresh_interval.setter
    def refresh_interval(self, steps: int) -> None:
        for group in self.projected_groups():
            group["update_proj_gap"] = steps
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if "projector" in state:
                    state["projector"].update_proj_gap = steps

    def step(self, closure: Any = None) -> Any:
        """As upstream, which makes a projector of its own kind where it finds none."""
        for group in self.projected_groups():
            for parameter in group["params"]:
                if parameter.grad is None or "projector" in self.state[parameter]:
                    continue
                self.state[parameter]["projector"] = self._make_projector(group, parameter)
        return super().step(closure)  # type: ignore[misc]

    def state_dict(self) -> dict:
        """As upstream, but a projector becomes what it has learned: a pickled object cannot be loaded safely."""
        plain = super().state_dict()  # type: ignore[misc]
        for index, state in plain["state"].items():
            if "projector" in state:
                projector = state["projector"]
                learned = {name: getattr(projector, name) for name in self.learned}
                plain["state"][index] = {**state, "projector": learned}
        return plain

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave; what was learned becomes a projector again, as its group describes it."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(group["params"], saved["params"], strict=True):
                # As it was saved, since torch has made it of the weight's type.
                learned = state_dict["state"].get(number, {}).get("projector")
                if learned is None:
                    continue
                projector = self._make_projector(group, parameter)
                for name, value in learned.items():
                    setattr(projector, name, move_tensors(value, parameter.device))
                self.state[parameter]["projector"] = projector


def move_tensors(value: Any, device: torch.device) -> Any:
    """Return a value, or a list of several, with its tensors on a device."""

    def move(item: Any) -> Any:
        return item.to(device) if isinstance(item, torch.Tensor) else item

    return tree_map(move, value)


def make_projected_groups(
    model: Any,
    experiment: Experiment,
    targets: Targets,
    describe: Callable[[int], dict],
) -> list[dict]:
    """Split what trains into projected groups and ordinary ones, each with and without weight decay.

    Args:
        targets: the matrices whose gradients are projected.
        describe: returns a projected group's own keys, for stacks of so many experts, or for matrices (0).
    """
    # How many experts' matrices each targeted parameter holds, by the parameter; 0: it is one matrix, and no stack.
    experts = {id(layer.weight): 0 for layer in targets.linears.values()}
    for stack in targets.experts.values():
        experts[id(stack.parameter)] = stack.experts
    ordinary = []
    named_by_count: dict[int, list] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in experts:
            count = experts[id(parameter)]
            named_by_count.setdefault(count, []).append((name, parameter))
        else:
            ordinary.append((name, parameter))
    lr = experiment.lr
    decay = experiment.weight_decay
    groups = []
    for count, named in sorted(named_by_count.items()):
        groups += parameter_groups(named, lr, decay, **describe(count))
    return [*groups, *parameter_groups(ordinary, lr, decay)]
