"""Bypassed layers: linear layers whose weight a model multiplies by itself, without the layer's forward pass.

An adapter on such a layer does nothing (Mamba's and Jamba's `dt_proj`), and where it takes a part of the weight away,
as PiSSA does, the model is another one.
"""

import copy
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from transformers.pytorch_utils import Conv1D

PROBE_TOKENS = 4
BYPASSED = "the model uses its weight without its forward pass, where an adapter does nothing"
# What code gets that reads a value where there is none, as to see whether all tokens count.
VALUES_READ = {"__bool__": True, "item": 1, "__int__": 1, "__index__": 1, "__float__": 1.0}


def find_bypassed_layers(model: nn.Module) -> set[str]:
    """Return the paths of the linear layers whose weight is used outside their forward pass.

    The model is asked in one forward pass on tensors without storage. Where such a pass cannot go on, as at a router
    that reads values, what was seen so far counts for all layers of the same name. The layers of a quantised model are
    called, since nobody else can read their weights.
    """
    if getattr(model, "is_quantized", False):
        return set()
    watch = _WeightWatch()
    # Without values any part of a model may fail, each in its own way; nor does the pass count in a prediction.
    with suppress(Exception), _disable_current_modes():
        _run_without_values(model, watch)
    patterns = {generalise_path(path) for path in watch.bypassed - watch.entered}
    return {path for path in watch.layers.values() if generalise_path(path) in patterns}


def _run_without_values(model: nn.Module, watch: "_WeightWatch") -> None:
    """Take one forward pass of a copy of the model, under the eyes of `watch`."""
    shadow = _copy_without_weights(model)
    names = Counter(weight for _, weight in shadow.named_parameters(remove_duplicate=False))
    for path, module in shadow.named_modules():
        # A tied weight is used by its other owner, too.
        if isinstance(module, nn.Linear | Conv1D) and names[module.weight] == 1:
            watch.layers[module.weight] = path
            module.register_forward_pre_hook(partial(watch.enter, path))
            module.register_forward_hook(partial(watch.leave, path))
    ids = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device="meta")
    with torch.no_grad(), torch.device("meta"), watch:
        shadow(input_ids=ids, use_cache=False)


def _copy_without_weights(model: nn.Module) -> Any:
    """A copy of the model in evaluation, its parameters and buffers without storage; tied weights stay one."""
    copies: dict[int, Any] = {}
    for parameter in model.parameters():
        copies[id(parameter)] = nn.Parameter(_without_storage(parameter), requires_grad=False)
    for buffer in model.buffers():
        copies[id(buffer)] = _without_storage(buffer)
    return copy.deepcopy(model, copies).eval()


def _without_storage(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape; in bfloat16, since the kernels of experts have no shapes for float32."""
    dtype = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, dtype=dtype, device="meta")


class _WeightWatch(TorchFunctionMode):
    """Sees which weights of layers go into an operation while their layer is not being called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: dict[torch.Tensor, str] = {}  # path of each layer, by its weight
        self.running: list[str] = []  # whose forward pass has begun and not ended
        self.entered: set[str] = set()
        self.bypassed: set[str] = set()

    def enter(self, path: str, layer: nn.Module, inputs: Any) -> None:
        """Note that a layer is being called."""
        self.running.append(path)
        self.entered.add(path)

    def leave(
        self,
        path: str,
        layer: nn.Module,
        inputs: Any,
        output: Any,
    ) -> None:
        """Note that its call has ended."""
        self.running.remove(path)

    def __torch_function__(
        self, operation: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at what an operation is given; asking a weight for its type or device is none."""
        kwargs = kwargs or {}
        name = getattr(operation, "__name__", "")
        if name in VALUES_READ:
            return VALUES_READ[name]
        if name != "__get__":
            for value in (*args, *kwargs.values()):
                if isinstance(value, nn.Parameter):
                    self._note(value)
        return operation(*args, **kwargs)

    def _note(self, weight: torch.Tensor) -> None:
        path = self.layers.get(weight)
        if path is not None and path not in self.running:
            self.bypassed.add(path)


def generalise_path(path: str) -> str:
    """A path with `*` in place of the numbers of layers."""
    return re.sub(r"\.\d+(?=\.)", ".*", path)
