"""BAdam's optimizer of ratio mode: `badam.BlockOptimizerRatio`, mended. Imports torch at its head."""

import math
from typing import Any

import badam
import torch

from tuneoff.models.optimizers import BETAS, EPS

SMALL = 100  # entries below which a tensor trains whole, as upstream's preserve_threshold means to


class BlockOptimizerRatio(badam.BlockOptimizerRatio):
    """Upstream's sparse Adam and its adjacent mask, with masks that hold a cycle.

    Upstream needs an untied head, cannot set its interval, draws seeds and masks from the global generator, moves the
    mask at every micro-batch of an accumulation, and in scatter mode changes it one step before the state.
    """

    state: dict

    def __init__(
        self,
        groups: list[dict],
        *,
        lr: float,
        update_ratio: float,
        is_scattered: bool,
        switch_interval: int,
        seed: int,
    ):
        """Register the hooks that make gradients sparse.

        Args:
            groups: parameter groups of what trains.
            lr: the learning rate.
            update_ratio: the share of each weight that trains at one time.
            is_scattered: whether that share lies anywhere in the weight, rather than side by side.
            switch_interval: steps a mask; -1 keeps the first.
            seed: of the scattered order.
        """
        self.update_ratio = update_ratio
        self.is_scattered = is_scattered
        # The steps after which memory repeats; 0 where it never does.
        self.refresh_interval = max(0, switch_interval)
        self.seed = seed
        self.global_step = 0
        self.masks: dict[torch.Size, torch.Tensor] = {}
        # Optimizer's own __init__: upstream's is where the tied head crashes and the global generator is drawn from.
        defaults: dict[str, Any] = {"lr": lr, "betas": BETAS, "eps": EPS}
        torch.optim.Optimizer.__init__(self, groups, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self._sparsify)

    def extra_state_tensors(self) -> list:
        """Return the masks, which stay until they move."""
        return list(self.masks.values())

    def _sparsify(self, parameter: Any) -> None:
        """Replace a dense gradient by its masked entries; a second micro-batch adds into the same entries."""
        parameter.grad = select_entries(parameter.grad, self._get_mask(parameter))

    def _get_mask(self, parameter: Any) -> torch.Tensor:
        """Return a coalesced sparse tensor of ones, the same for all weights of a shape, until the cycle ends."""
        shape = parameter.shape
        if shape not in self.masks:
            chosen = self._choose_entries(parameter.numel()).to(parameter.device)
            indices = torch.stack(
                torch.unravel_index(chosen, shape)
            )  # (dimensions, chosen entries)
            self.masks[shape] = torch.sparse_coo_tensor(
                indices,
                parameter.new_ones(len(chosen)),
                shape,
                is_coalesced=True,
                check_invariants=False,
            )
        return self.masks[shape]

    def _count_chosen(self, size: int) -> int:
        """Return how many of `size` entries train in one cycle."""
        if size < SMALL:
            return size
        return max(1, int(size * self.update_ratio))

    def turns_in_cycle(self) -> int:
        """Return how many masks it takes until every entry had its turn, but for what rounding leaves of a weight."""
        return math.ceil(1 / self.update_ratio)

    def count_trainable(self) -> int:
        """Return how many entries the next step changes."""
        return sum(map(self._count_chosen, self._sizes()))

    def count_reached(self, steps: float) -> int:
        """Return how many entries were changed so far, or would be in `steps` more: each cycle takes the next ones."""
        masks = self.global_step + steps
        if not self.refresh_interval:
            masks = min(1, masks)
        elif math.isfinite(masks):
            masks = math.ceil(masks / self.refresh_interval)
        reached = 0
        for size in self._sizes():
            reached += int(min(size, masks * self._count_chosen(size)))
        return reached

    def _sizes(self) -> list[int]:
        """Return the size of every weight that trains."""
        sizes: list[int] = []
        for group in self.param_groups:
            sizes += [parameter.numel() for parameter in group["params"]]
        return sizes

    def _choose_entries(self, size: int) -> torch.Tensor:
        """Return the sorted places, among `size` entries, of the share that trains in this cycle."""
        count = self._count_chosen(size)
        cycle = self.global_step // self.refresh_interval if self.refresh_interval else 0
        offset = cycle * count % size
        chosen = torch.arange(offset, offset + count) % size
        if self.is_scattered:
            generator = torch.Generator().manual_seed(self.seed)
            chosen = torch.randperm(size, generator=generator)[chosen]
        return chosen.sort().values

    def step(self, closure: Any = None) -> None:
        """One Adam step on the masked entries; at the interval's end the mask moves and the state restarts."""
        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        self.global_step += 1
        if self.refresh_interval and self.global_step % self.refresh_interval == 0:
            self.state.clear()
            self.masks.clear()

    def _step_group(self, group: dict) -> None:
        """One Adam step on the parameters of a group that have a gradient."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                values = parameter.grad._values()
                state["step"] = 0
                state["exp_avg"] = values.new_zeros(len(values))
                state["exp_avg_sq"] = values.new_zeros(len(values))
            state["step"] += 1
            states.append(state)
            if group["weight_decay"]:  # upstream has none; decay what this step may change
                entries = select_entries(parameter, parameter.grad)
                parameter.add_(entries * (-group["lr"] * group["weight_decay"]))
        self._sparse_adam(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["step"] for state in states],
            eps=group["eps"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            maximize=False,
        )

    def state_dict(self) -> dict:
        """Return what every optimizer does, and the step that the mask follows from."""
        return {**super().state_dict(), "global_step": self.global_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave; the mask is made anew from the step."""
        plain = {key: state_dict[key] for key in ("state", "param_groups")}
        super().load_state_dict(plain)
        self.global_step = state_dict["global_step"]
        self.masks.clear()


def select_entries(dense: Any, mask: Any) -> torch.Tensor:
    """Return `dense.sparse_mask(mask)` that shares the mask's indices.

    Copies of the indices, 16 bytes an entry, would outweigh all else.
    """
    indices = mask._indices()
    return torch.sparse_coo_tensor(
        indices, dense[tuple(indices)], mask.shape, is_coalesced=True, check_invariants=False
    )
