"""Sharding: how a model, and what trains it, lie on the ranks; here whole on each, in one process or under DDP.

FSDP2 (`fsdp2.py`) and DeepSpeed (`deepspeed_engine.py`) split them, each in a subclass. All ranks make every call.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch

from tuneoff.distributed.ranks import Ranks


class StepSettings(NamedTuple):
    """What an engine that steps by itself must know beforehand."""

    batch_size: int  # of a rank's micro-batch
    max_grad_norm: float | None
    mixed_precision: str  # no or bf16


class Sharding:
    """Whole on each rank: nothing is split, and nothing has to be put together."""

    splits = False  # whether a rank has a part alone of the model, or of what trains it

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.accelerator = ranks.accelerator

    # ------------------------------------------------------------ before training
    @property
    def loads_weights(self) -> bool:
        """Whether this rank reads the model's weights; else another sends it its part."""
        return True

    def loading(self) -> AbstractContextManager:
        """Around what loads a whole model and prepares it."""
        return nullcontext()

    def place(self, model: Any) -> Any:
        """Return the prepared model where it trains, split where it is split."""
        return model.to(self.ranks.device)

    def join(
        self,
        model: Any,
        optimizer: Any,
        settings: StepSettings,
    ) -> tuple[Any, Any]:
        """Return model and optimizer as a step calls them. With DDP, gradients are averaged over the ranks."""
        if self.accelerator.scaler is not None:
            optimizer = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        if self.ranks.count > 1:
            model = self.accelerator.prepare_model(model)
        return model, optimizer

    # ------------------------------------------------------------ in a step
    def autocast(self) -> AbstractContextManager:
        """Around a forward pass, in the precision of the run."""
        return self.accelerator.autocast()

    @contextmanager
    def without_synchronisation(self, wrapped_model: Any) -> Iterator[None]:
        """Around every micro-batch but a step's last: gradients add up, and no step is taken."""
        with self.accelerator.no_sync(wrapped_model):
            yield

    def gather_norm(self, norm: Any) -> Any:
        """Return the gradient norm of a step, over all ranks, as a tensor."""
        return norm

    # ------------------------------------------------------------ whole, for a checkpoint or an export
    def gather_parameter(self, parameter: Any) -> Any:
        """Return a whole parameter on the first rank; on the others anything."""
        return parameter

    def gather_model(self, model: Any, make_whole_model: Callable[[], Any]) -> Any:
        """Return a model with all trained weights on the first rank; on the others anything.

        Args:
            make_whole_model: makes a model like `model` that is not split.
        """
        return model

    def gather_optimizer_state(self, optimizer: Any) -> dict | None:
        """Return an optimizer's state on the first rank; None where each rank has its own, `rank_state`."""
        return optimizer.state_dict()

    def rank_state(self, optimizer: Any) -> dict | None:
        """Return what this rank alone has of an optimizer's state; None where the first one writes it whole."""
        return None

    # ------------------------------------------------------------ back, on a resume
    def restore_parameter(self, parameter: Any, whole: Any) -> None:
        """Set a parameter to a whole tensor, which the first rank has at least."""
        parameter.copy_(whole)

    def restore_optimizer(self, optimizer: Any, state: dict) -> None:
        """Set an optimizer to what `gather_optimizer_state`, or `rank_state`, gave."""
        load_optimizer_state(optimizer, state)


def load_optimizer_state(optimizer: Any, state: dict) -> None:
    """Load an optimizer's state with each tensor in the type that it was saved in.

    `load_state_dict` makes them all of the weights' type. Transformers' Adafactor and Adam-mini have float32 states
    beside bfloat16 weights, and would go on from rounded ones.
    """
    optimizer.load_state_dict(state)
    if "param_groups" not in state:  # of one that holds another, which takes care of it
        return
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for parameter, number in zip(group["params"], saved["params"], strict=True):
            loaded = optimizer.state.get(parameter, {})
            for name, value in state["state"].get(number, {}).items():
                if isinstance(value, torch.Tensor) and loaded[name].dtype != value.dtype:
                    loaded[name] = value.to(parameter.device)
