"""Sharding: all that FSDP2 and DeepSpeed need, which split a model and what trains it over the ranks.

Without either, every method here gives back what it was given: a run in one process, or under DDP, has whole tensors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tuneoff.distributed.ranks import Ranks


class Sharding:
    """How a model and its optimizer lie on the ranks: whole on each, or split by FSDP2 or DeepSpeed."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.accelerator = ranks.accelerator

    @property
    def active(self) -> bool:
        """Whether FSDP or DeepSpeed holds a part of the model, or of what trains it, on each process."""
        return self.accelerator.distributed_type in ("FSDP", "DEEPSPEED")

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed does the step. Never run by its authors' tests here: it needs GPUs."""
        return self.accelerator.distributed_type == "DEEPSPEED"

    # ------------------------------------------------------------ for a step
    def join(
        self, model: Any, optimizer: Any, batch_size: int, max_grad_norm: float | None
    ) -> tuple[Any, Any]:
        """Return model and optimizer as a step calls them.

        With DDP gradients are averaged over the processes. FSDP2 splits the parameters of `model` and `optimizer`
        themselves; DeepSpeed steps inside backward, and clips.
        """
        if self.deepspeed:
            return self._join_deepspeed(model, optimizer, batch_size, max_grad_norm)
        if self.active:
            return self.accelerator.prepare(model, optimizer)
        if self.accelerator.scaler is not None:
            optimizer = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        if self.ranks.count > 1:
            model = self.accelerator.prepare_model(model)
        return model, optimizer

    def _join_deepspeed(
        self, model: Any, optimizer: Any, batch_size: int, max_grad_norm: float | None
    ) -> tuple[Any, Any]:
        import torch

        # Without loaders it cannot know the batch size; left open, accelerate would fill in a clip of 1.
        self.accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=batch_size,
            gradient_clipping=max_grad_norm or 0.0,
        )
        engine, stepper = self.accelerator.prepare(model, optimizer)

        def gradient_norm() -> torch.Tensor:
            return torch.as_tensor(engine.get_global_grad_norm() or 0.0)

        stepper.optimizer.gradient_norm = gradient_norm
        return engine, stepper

    @contextmanager
    def without_synchronisation(self, wrapped_model: Any) -> Iterator[None]:
        """Around every micro-batch but a step's last: gradients add up here, and nothing is sent."""
        self.accelerator.sync_gradients = False  # DeepSpeed would step
        with self.accelerator.no_sync(wrapped_model):
            yield
        self.accelerator.sync_gradients = True

    # ------------------------------------------------------------ whole, for a checkpoint or an export
    def gather_tensors(self, tree: Any) -> Any:
        """Nested containers of tensors with each split tensor put together, on the CPU; all ranks must call."""
        if not self.active:
            return tree
        from torch.distributed.tensor import DTensor
        from torch.utils._pytree import tree_map

        def gather(item: Any) -> Any:
            return item.full_tensor().cpu() if isinstance(item, DTensor) else item

        return tree_map(gather, tree)

    def gather_model(
        self, model: Any, wrapped_model: Any, make_whole_model: Callable[[], Any]
    ) -> Any:
        """Return a model with all trained weights, on the first rank at least; all ranks must call.

        Args:
            make_whole_model: makes a model like `model` that is not split.
        """
        if not self.active:
            return model
        if self.deepspeed:
            state = self.accelerator.get_state_dict(wrapped_model)
        else:
            state = self.gather_tensors(model.state_dict())
        if not self.ranks.first:
            return model
        whole_model = make_whole_model()
        whole_model.load_state_dict(state)
        return whole_model

    # ------------------------------------------------------------ split again, on a resume
    def split_tensor(self, tensor: Any, like: Any) -> Any:
        """Return this rank's part of a whole tensor, where `like`, of the same shape, is split."""
        if not self.active:
            return tensor
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or tensor.shape != like.shape:
            return tensor
        return distribute_tensor(tensor.to(self.ranks.device), like.device_mesh, like.placements)

    def split_optimizer_state(self, state: dict, optimizer: Any) -> dict:
        """Return an optimizer's whole state dict with the tensors of a parameter's shape split as the parameter is."""
        import torch

        if not self.active:
            return state
        parameters = []
        for group in optimizer.param_groups:
            parameters += group["params"]
        entries: dict[int, dict] = {}
        for index, entry in state["state"].items():
            entries[index] = {}
            for key, item in entry.items():
                if isinstance(item, torch.Tensor):
                    item = self.split_tensor(item, parameters[index])
                entries[index][key] = item
        return {**state, "state": entries}
