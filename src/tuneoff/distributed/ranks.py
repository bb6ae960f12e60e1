"""Ranks: the processes of one run, and what they tell each other."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from tuneoff.distributed.launch import get_world_size
from tuneoff.record import describe_error

# Longer than any export or download by one rank, for which the others wait; whoever started them ends the lost ones.
PATIENCE = timedelta(hours=12)
TOLD = timedelta(seconds=5)


class RankLost(RuntimeError):
    """Another process of this run has ended without a word."""


class Ranks:
    """The processes of a run, this one among them. A run in one process speaks to itself."""

    def __init__(self, **settings: Any):
        """Meet the others; `settings` are the Accelerator's.

        Raises:
            RuntimeError: accelerate did not form the group that was launched.
        """
        import torch
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state()  # a test process trains more than once; accelerate keeps the first precision
        self.accelerator = Accelerator(
            # Without a device accelerate forms no group unless it is told so, and every process trains by itself.
            cpu=get_world_size() > 1 and not torch.cuda.is_available(),
            # Gradients lie in the buckets that are sent, instead of beside them.
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
            **settings,
        )
        self.count, self.index = self.accelerator.num_processes, self.accelerator.process_index
        device = self.accelerator.device
        self.device = (
            torch.device("cpu") if device.type == "cpu" else device
        )  # in a group it is cpu:0, cpu:1
        if self.count != get_world_size():
            raise RuntimeError(
                f"{get_world_size()} processes were launched, and accelerate has joined {self.count}"
            )
        if self.count > 1:
            from torch.distributed import TCPStore

            self._board = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=TOLD,
            )

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def gather(self, item: Any) -> list:
        """What each process has given, in their order; all must call."""
        from accelerate.utils import gather_object

        return gather_object([item]) if self.count > 1 else [item]

    def generators(self) -> list[dict]:
        """The states of all processes' generators, in their order: dropout differs between them."""
        import torch

        cuda = {"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return self.gather({"cpu": torch.get_rng_state(), **cuda})

    def set_generators(self, states: list[dict]) -> None:
        """Go on from `generators`, in as many processes as there were."""
        import torch

        torch.set_rng_state(states[self.index]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[self.index]["cuda"], self.device)

    # ------------------------------------------------------------ model and optimizer
    @property
    def sharded(self) -> bool:
        """Whether FSDP or DeepSpeed holds a part of the model, or of what trains it, on each process."""
        return self.accelerator.distributed_type in ("FSDP", "DEEPSPEED")

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed does the step. Never run by its authors' tests here: it needs GPUs."""
        return self.accelerator.distributed_type == "DEEPSPEED"

    def join(
        self, model: Any, optimizer: Any, batch_size: int, max_grad_norm: float | None
    ) -> tuple[Any, Any]:
        """Both as a step uses them: gradients are averaged over the processes, or all is split as accelerate was told.

        FSDP2 splits the parameters of `model` and `optimizer` themselves; DeepSpeed steps inside backward, and clips.
        """
        if self.deepspeed:
            # Without loaders it cannot know the first; left open, accelerate would fill in a clip of 1.
            self.accelerator.state.deepspeed_plugin.deepspeed_config.update(
                train_micro_batch_size_per_gpu=batch_size, gradient_clipping=max_grad_norm or 0.0
            )
        if self.sharded:
            model, optimizer = self.accelerator.prepare(model, optimizer)
            if self.deepspeed:
                import torch

                optimizer.optimizer.gradient_norm = lambda: torch.as_tensor(
                    model.get_global_grad_norm() or 0.0
                )
            return model, optimizer
        if self.accelerator.scaler is not None:
            optimizer = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        return self.accelerator.prepare_model(model) if self.count > 1 else model, optimizer

    @contextmanager
    def unsynchronised(self, model: Any) -> Iterator[None]:
        """Around every micro-batch but a step's last: gradients add up here, and nothing is sent."""
        self.accelerator.sync_gradients = False  # DeepSpeed would step
        with self.accelerator.no_sync(model):
            yield
        self.accelerator.sync_gradients = True

    def whole(self, tree: Any) -> Any:
        """Tensors in containers, each put together where it is split over the processes; all must call."""
        if not self.sharded:
            return tree
        from torch.distributed.tensor import DTensor
        from torch.utils._pytree import tree_map

        return tree_map(
            lambda item: item.full_tensor().cpu() if isinstance(item, DTensor) else item, tree
        )

    def split(self, tensor: Any, like: Any) -> Any:
        """This process's part of a whole tensor, where `like`, of the same shape, is split."""
        if not self.sharded:
            return tensor
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or tensor.shape != like.shape:
            return tensor
        return distribute_tensor(tensor.to(self.device), like.device_mesh, like.placements)

    def split_state(self, state: dict, optimizer: Any) -> dict:
        """An optimizer's whole state dict, with the tensors of a parameter's shape split as the parameter is."""
        import torch

        if not self.sharded:
            return state
        owners = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        entries = {
            index: {
                key: self.split(item, owners[index]) if isinstance(item, torch.Tensor) else item
                for key, item in entry.items()
            }
            for index, entry in state["state"].items()
        }
        return {**state, "state": entries}

    def whole_model(self, model: Any, wrapped: Any, make: Callable[[], Any]) -> Any:
        """A model with all trained weights, on the first process at least; all must call.

        Args:
            make: makes a model like `model` that is not split.
        """
        if not self.sharded:
            return model
        state = (
            self.accelerator.get_state_dict(wrapped)
            if self.deepspeed
            else self.whole(model.state_dict())
        )
        if self.first:
            model = make()
            model.load_state_dict(state)
        return model

    # ------------------------------------------------------------ failures
    def first_failure(self, status: str, caught: BaseException) -> tuple[str, dict]:
        """Status and error of what went wrong first, on whichever process: the others see a closed connection."""
        error = describe_error(caught)
        if self.count == 1:
            return status, error
        from torch.distributed import DistError

        if isinstance(caught, DistError) or "gloo/transport" in str(caught):
            status, error["type"] = "killed", RankLost.__name__
            error["message"] = (
                f"another of the {self.count} processes has ended: {error['message']}"
            )
        try:
            said = self._board.compare_set(
                "tuneoff/failure", "", json.dumps([self.index, status, error])
            )
        except DistError:  # the board went with the first process
            return status, error
        index, status, error = json.loads(said)
        return status, error if index == self.index else {
            **error,
            "message": f"rank {index}: {error['message']}",
        }
