"""BAdam's optimizer of layer mode under DeepSpeed's ZeRO-3, whose engine holds the weights and their copies.

The package switches blocks inside the engine's step, which writes a block's last update back only afterwards, and so
loses it. Here the switch comes after the engine's step. Imports torch at its head.
"""

from collections.abc import Callable
from typing import Any

from tuneoff.methods._badam_layer import BlockOptimizer


class Zero3BlockOptimizer(BlockOptimizer):
    """One block at a time, of which the engine keeps each rank's part; the state is complete."""

    param_groups: list[dict]
    engine_optimizer: Any = None  # DeepSpeed's, from `join_engine` on

    def join_engine(self, engine_optimizer: Any) -> Callable[[], None]:
        """Learn of the engine's optimizer; return what to call after each of the engine's steps."""
        self.engine_optimizer = engine_optimizer
        return self.count_step

    def count_step(self) -> None:
        """Count a step that the engine has taken, and switch where a block has had its interval."""
        self.reached.add(self.active_block)
        self.global_step += 1
        if self.refresh_interval and self.global_step % self.refresh_interval == 0:
            self.switch_trainable_params()

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Step what the engine has put into the groups: a flat part of the active block."""
        self.base_optimizer.step(*args, **kwargs)

    def switch_trainable_params(self, verbose: int | None = None) -> None:
        """As upstream, but for its detection of ZeRO-3 at the import of the package, which may be older."""
        self.ds_zero3_enabled = True
        super().switch_trainable_params(verbose)

    def active_weights(self) -> list:
        """Return the weights of the active block."""
        return [weight for _, weight in self.named_parameters_list if weight.requires_grad]

    def _switch_trainable_params_zero3(self, verbose: int | None = 1) -> None:
        """As upstream, but decay is for matrices alone, rates go on, and the engine sets itself up by its own means."""
        with_decay: list = []
        without_decay: list = []
        prefixes = tuple(self.block_prefix_list[self.current_block_idx])
        for name, parameter in self.named_parameters_list:
            parameter.requires_grad_(name.startswith(prefixes))
            parameter.grad = None
            if parameter.requires_grad:
                members = with_decay if _is_matrix(parameter) else without_decay
                members.append(parameter)
        rate = self.param_groups[0]["lr"]
        decay = self.weight_decay
        groups = []
        for members, own_decay in ((with_decay, decay), (without_decay, 0.0)):
            group = {**self.defaults, "params": members, "lr": rate}
            groups.append({**group, "weight_decay": own_decay})
        # Always two groups, for the schedule's sake; the engine knows none that is empty, and none behind it.
        groups.sort(key=lambda group: not group["params"])
        self.param_groups = groups
        self.base_optimizer.param_groups = groups
        if self.engine_optimizer is not None:
            self._set_up_engine(groups)

    def _set_up_engine(self, groups: list[dict]) -> None:
        """Have the engine's optimizer forget the block before, and hold this one."""
        engine = self.engine_optimizer
        for hook in (*engine._grad_acc_hooks, *engine._leaf_module_hooks):
            hook.remove()
        engine._grad_acc_hooks.clear()
        engine._leaf_module_hooks.clear()
        for name in BOOKKEEPING:
            setattr(engine, name, type(getattr(engine, name))())
        engine._create_fp16_partitions_with_defragmentation(
            [group for group in groups if group["params"]]
        )
        engine.create_reduce_and_remove_grad_hooks()
        engine._setup_for_real_optimizer()
        # The order in which modules come has changed: what was traced of it is void.
        coordinator = engine.parameter_offload.get_param_coordinator()
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()

    def state_dict(self) -> dict:
        """Return Adam's state over this rank's part of the active block, and where the cycle stands."""
        return {
            "base": self.base_optimizer.state_dict(),
            **self.cycle_state(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where `state_dict` was taken; the model's weights, and with them the engine's, are loaded already."""
        self.current_block_idx = state_dict["active_block"]
        self.switch_trainable_params()
        self.engine_optimizer._set_fp32_optimizer_param_groups()
        self.base_optimizer.load_state_dict(state_dict["base"])
        self.param_groups = self.base_optimizer.param_groups
        self.engine_optimizer._clear_fp32_optimizer_param_groups()
        self.restore_cycle(state_dict)


# What the engine's optimizer knows of the weights that it steps, each empty when it begins.
BOOKKEEPING = (
    "fp16_groups",
    "fp16_partitioned_groups",
    "fp16_partitioned_groups_flat",
    "fp16_partitioned_groups_flat_numel",
    "fp16_partitioned_groups_flat_id",
    "fp32_partitioned_groups_flat",
    "groups_padding",
    "sub_group_to_group_id",
    "sub_group_process_groups",
    "sub_group_partition_counts",
)


def _is_matrix(parameter: Any) -> bool:
    """Whether weight decay applies; a split parameter is flat, and has its shape beside."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return len(shape) >= 2
