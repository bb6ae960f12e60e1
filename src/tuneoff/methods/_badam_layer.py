"""BAdam's optimizer of layer mode: `badam.BlockOptimizer`, mended. Imports torch at its head."""

import math
from collections.abc import Sequence
from typing import Any

import badam
import torch

from tuneoff.models.layers import count_weights
from tuneoff.models.optimizers import takes_weight_decay


class BlockOptimizer(badam.BlockOptimizer):
    """Exact switching, a random order of its own, weight decay by group, and a complete state.

    Args:
        base_optimizer: does the steps; all that trains is in its one group.
        named_parameters: all of the model's.
        blocks: each as prefixes of parameter names.
        start_block: the first block; None is the mode's own.
        switch_mode: ascending, descending, random or fixed.
        switch_interval: steps a block; -1 never switches.
        costly_blocks: the blocks of which one's turn needs the most memory.
        verbose: 0 is silent, 1 prints the active block, 2 its parameters too.
        seed: of the random order.
    """

    base_optimizer: Any
    current_block_idx: int  # the block that comes next
    param_idx2lp: dict[int, Any]  # the weights of the active block
    param_idx2hp: dict[int, Any]  # their float32 copies

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        named_parameters: Sequence[tuple[str, Any]],
        blocks: list[list[str]],
        *,
        start_block: int | None,
        switch_mode: str,
        switch_interval: int,
        costly_blocks: list[int],
        verbose: int,
        seed: int,
    ):
        """Activate the first block."""
        # The steps after which memory repeats; 0 where it never does.
        self.refresh_interval = max(0, switch_interval)
        self.block_num = len(blocks)
        self.switch_mode = switch_mode
        self.verbosity = verbose
        self.costly_blocks = costly_blocks
        self.reached: set[int] = set()  # the blocks that have had a step
        self.order: list[int] = []  # what is left of a random order, the next block last
        self.generator = torch.Generator().manual_seed(seed)
        if start_block is None and switch_mode == "random":
            self._update_active_block_idx()
            start_block = self.current_block_idx
        super().__init__(
            base_optimizer,
            named_parameters,
            blocks,
            start_block=start_block,
            switch_mode=switch_mode,
            switch_block_every=switch_interval,
            verbose=verbose,
        )
        # Upstream hides our `state_dict` behind the base optimizer's, which lacks the cycle.
        del self.__dict__["state_dict"]

    def _update_active_block_idx(self) -> None:
        """As upstream, but a random order (each block once) is drawn from a generator of our own, not the global."""
        if self.switch_mode != "random":
            super()._update_active_block_idx()
            return
        if not self.order:
            self.order = torch.randperm(self.block_num, generator=self.generator).tolist()
        self.current_block_idx = self.order.pop()

    def find_reached(self, steps: float) -> set[int]:
        """Return the blocks that have had a step, or get one within the next `steps`."""
        if not steps:
            return set(self.reached)
        blocks = {*self.reached, self.active_block}
        if not self.refresh_interval:
            return blocks
        switches = self._count_switches(self.global_step + steps - 1)
        switches -= self._count_switches(self.global_step)
        before = (self.current_block_idx, list(self.order), self.generator.get_state())
        # Even a random order has been through all blocks after two cycles.
        for _ in range(int(min(switches, 2 * self.block_num))):
            blocks.add(self.current_block_idx)
            self._update_active_block_idx()
        self.current_block_idx, self.order, generator_state = before
        self.generator.set_state(generator_state)
        return blocks

    def _count_switches(self, step: float) -> float:
        """Return how often the block has changed before `step`, counted from 0."""
        return step // self.refresh_interval if math.isfinite(step) else math.inf

    def turns_in_cycle(self) -> int:
        """Return after how many switches every block had its turn."""
        return 1 if self.switch_mode == "fixed" else self.block_num

    def find_reached_names(self, steps: float = 0) -> list[str]:
        """Return the names of the parameters in the blocks that `find_reached` returns."""
        prefixes: list[str] = []
        for block in self.find_reached(steps):
            prefixes += self.block_prefix_list[block]
        names = [name for name, _ in self.named_parameters_list]
        return [name for name in names if name.startswith(tuple(prefixes))]

    def count_reached(self, steps: float) -> int:
        """Return how many weights lie in the blocks that `find_reached` returns."""
        names = set(self.find_reached_names(steps))
        weights = [weight for name, weight in self.named_parameters_list if name in names]
        return sum(map(count_weights, weights))

    def count_trainable(self) -> int:
        """Return how many weights the active block has."""
        return sum(map(count_weights, self.active_weights()))

    def active_weights(self) -> list:
        """Return the weights of the active block."""
        return list(self.param_idx2lp.values())

    def extra_state_tensors(self) -> list:
        """Return what the base optimizer keeps of the active block: Adam's state and the float32 copies."""
        return [*self.base_optimizer.state.values(), *self.param_idx2hp.values()]

    def costly_phases(self) -> list[int]:
        """Return the blocks of which one's turn needs the most memory."""
        return self.costly_blocks

    def phases_of_cycle(self) -> list[int]:
        """Return the blocks that get a turn, from the embeddings' end of the model to its head's."""
        never_switches = not self.refresh_interval or self.switch_mode == "fixed"
        return [self.active_block] if never_switches else list(range(self.block_num))

    def current_phase(self) -> int:
        """Return the block that the next step trains."""
        return self.active_block

    def enter_phase(self, block: int) -> None:
        """Switch to `block` now."""
        self.current_block_idx = block
        self.switch_trainable_params()

    def step(self, *args: Any, **kwargs: Any) -> None:
        """As upstream, but each block gets exactly its interval, the first too, and CUDA's cache is left as it is."""
        self.reached.add(self.active_block)
        self.step_single_gpu(*args, **kwargs)
        if self.refresh_interval and self.global_step % self.refresh_interval == 0:
            self.switch_trainable_params()

    def _grad_to_hp(self, clear_lp_grads: bool = True) -> None:
        """As upstream, but a weight without a gradient is skipped, as torch's optimizers do; upstream asserts one."""
        for index, weight in self.param_idx2lp.items():
            copy = self.param_idx2hp[index]
            copy.grad = None if weight.grad is None else weight.grad.float()
            if clear_lp_grads:
                weight.grad = None

    def switch_trainable_params(self, verbose: int | None = None) -> None:
        """As upstream, but silent at verbosity 0."""
        self.active_block = self.current_block_idx
        super().switch_trainable_params(self.verbosity)

    def _switch_trainable_params_single_gpu(self, verbose: int | None = 1) -> None:
        """As upstream, but decay is the run's and for matrices alone (upstream: 0.01, and for norms too)."""
        super()._switch_trainable_params_single_gpu(verbose)
        with_decay, without_decay = self.base_optimizer.param_groups
        with_decay["params"] = []
        with_decay["weight_decay"] = self.param_groups[0]["weight_decay"]
        without_decay["params"] = []
        without_decay["weight_decay"] = 0.0
        for index, copy in self.param_idx2hp.items():
            name, _ = self.named_parameters_list[index]
            group = with_decay if takes_weight_decay(name, copy) else without_decay
            group["params"].append(copy)
        groups = [group for group in (with_decay, without_decay) if group["params"]]
        self.base_optimizer.param_groups = groups

    def state_dict(self) -> dict:
        """Return Adam's state and float32 copies of the active block, and where the cycle stands.

        Upstream's state is Adam's alone.
        """
        return {
            "base": self.base_optimizer.state_dict(),
            "group": {**self.param_groups[0], "params": []},
            "copies": list(self.param_idx2hp.values()),
            **self.cycle_state(),
        }

    def cycle_state(self) -> dict:
        """Return where the cycle of the blocks stands."""
        return {
            "global_step": self.global_step,
            "active_block": self.active_block,
            "next_block": self.current_block_idx,
            "reached": sorted(self.reached),
            "order": list(self.order),
            "generator": self.generator.get_state(),
        }

    def restore_cycle(self, state: dict) -> None:
        """Go on where `cycle_state` was taken, its active block being active."""
        self.global_step = state["global_step"]
        self.current_block_idx = state["next_block"]
        self.reached = set(state["reached"])
        self.order = state["order"]
        self.generator.set_state(state["generator"])

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where `state_dict` was taken, in the middle of a block; the model's own weights are loaded already."""
        self.current_block_idx = state_dict["active_block"]
        self.switch_trainable_params()
        self.base_optimizer.load_state_dict(state_dict["base"])
        for copy, saved in zip(self.param_idx2hp.values(), state_dict["copies"], strict=True):
            copy.data.copy_(saved)
        group = self.param_groups[0]
        group.update(state_dict["group"], params=group["params"])
        self.restore_cycle(state_dict)
