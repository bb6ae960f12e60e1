"""FSDP2: weights, gradients and optimizer state split over the ranks by PyTorch.

The first rank alone loads the model, into its host's memory, and sends each rank its part of one weight after another.
So no device, and no other rank's host, holds the whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from tuneoff.distributed.ranks import Ranks
from tuneoff.distributed.sharding import Sharding, StepSettings, load_optimizer_state
from tuneoff.measure.memory_peaks import return_freed_memory


class Fsdp2(Sharding):
    """Split by FSDP2: every parameter is a DTensor, of which each rank has a share of the rows."""

    splits = True

    def __init__(self, ranks: Ranks):
        super().__init__(ranks)
        if ranks.device.type == "cpu":
            return_freed_memory()

    @property
    def loads_weights(self) -> bool:
        """Whether this is the first rank."""
        return self.ranks.first

    @contextmanager
    def loading(self) -> Iterator[None]:
        """On the ranks beside the first, new weights have names, shapes and types, and no values."""
        if self.loads_weights:
            yield
            return
        with torch.device("meta"):
            yield

    def place(self, model: Any) -> Any:
        """Return the model, split; its weights are the first rank's."""
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        whole = dict(model.named_parameters())
        names = self.ranks.gather(list(whole))
        if names != [names[0]] * len(names):
            raise RuntimeError("the ranks have made models with different parameters")
        empty_parameters(model)
        plugin = self.accelerator.state.fsdp_plugin
        plugin.cpu_ram_efficient_loading = False  # what accelerate would do then is done here
        model = fsdp2_prepare_model(self.accelerator, model)
        self._send_parameters(model, whole)
        self._send_buffers(model)
        return model

    def _send_parameters(self, model: Any, whole: dict[str, Any]) -> None:
        """Fill the split parameters with the first rank's whole ones, by name; each is let go when it is sent."""
        parts: dict[int, nn.Parameter] = {}
        state = {}
        for name, empty in model.named_parameters(remove_duplicate=False):
            if id(empty) not in parts:
                part = self._split(whole.pop(name), empty)
                parts[id(empty)] = nn.Parameter(part, requires_grad=empty.requires_grad)
            state[name] = parts[id(empty)]
        # FSDP has noted the empty ones: PyTorch lets it have others by this call alone.
        model.load_state_dict(state, strict=False, assign=True)

    def _send_buffers(self, model: Any) -> None:
        """Put the buffers, which are not split, on the device of each rank, with the first one's values."""
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                placed = buffer.to(self.ranks.device)
                torch.distributed.broadcast(placed, src=0)
                module._buffers[name] = placed

    def _split(self, whole: torch.Tensor, like: DTensor) -> DTensor:
        """This rank's part of a whole tensor of the first rank's, split as `like` is."""
        if not self.ranks.first:
            whole = torch.empty(like.shape, dtype=whole.dtype, device=self.ranks.device)
        whole = whole.detach().to(self.ranks.device)
        return distribute_tensor(whole, like.device_mesh, like.placements)

    def join(
        self,
        model: Any,
        optimizer: Any,
        settings: StepSettings,
    ) -> tuple[Any, Any]:
        """Return both as they are: the optimizer was made over the split parameters."""
        return model, optimizer

    @contextmanager
    def without_synchronisation(self, wrapped_model: Any) -> Iterator[None]:
        """Send gradients all the same: to add them up unsplit would take the memory that splitting saves."""
        yield

    def gather_norm(self, norm: Any) -> Any:
        """Return the norm, put together of its parts."""
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    # ------------------------------------------------------------ whole, on the first rank
    def gather_parameter(self, parameter: Any) -> Any:
        """Return the whole parameter in the first rank's host memory, and nothing of it on the others."""
        if not isinstance(parameter, DTensor):
            return parameter
        whole: torch.Tensor = parameter.detach().full_tensor()  # type: ignore[attr-defined]
        return whole.cpu() if self.ranks.first else torch.empty(0)

    def gather_model(self, model: Any, make_whole_model: Callable[[], Any]) -> Any:
        """Return a whole model on the first rank, put together one parameter after another."""
        return gather_into_whole(self, model, make_whole_model)

    def gather_optimizer_state(self, optimizer: Any) -> dict:
        """Return the whole state on the first rank."""
        return tree_map(self.gather_parameter, optimizer.state_dict())

    # ------------------------------------------------------------ split again
    def restore_parameter(self, parameter: Any, whole: Any) -> None:
        """Set the parameter's parts to those of the first rank's whole tensor."""
        parameter.copy_(self._split(whole, parameter))

    def restore_optimizer(self, optimizer: Any, state: dict) -> None:
        """Split each tensor of a parameter's shape as the parameter is."""
        parameters = []
        for group in optimizer.param_groups:
            parameters += group["params"]
        entries: dict[int, dict] = {}
        for index, entry in state["state"].items():
            entries[index] = {}
            for key, item in entry.items():
                if isinstance(item, torch.Tensor) and item.shape == parameters[index].shape:
                    item = self._split(item, parameters[index])
                entries[index][key] = item
        load_optimizer_state(optimizer, {**state, "state": entries})


def empty_parameters(model: nn.Module) -> None:
    """Put parameters without values in place of all; where two modules share one, they still do."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in empty:
                values = parameter.detach().to("meta")
                empty[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
            module._parameters[name] = empty[id(parameter)]


def gather_into_whole(sharding: Sharding, model: Any, make_whole_model: Callable[[], Any]) -> Any:
    """Put a split model together in a new one on the first rank, one parameter after another; all must call."""
    targets: dict[str, Any] = {}
    whole_model = model
    if sharding.ranks.first:
        whole_model = make_whole_model()
        targets = dict(whole_model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            whole = sharding.gather_parameter(parameter)
            if sharding.ranks.first:
                targets[name].copy_(whole)
    return whole_model
