"""Memory breakdown: what a peak is made of, by every storage's life, in a real step or on fake tensors."""

import re
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tuneoff.measure.memory_peaks import to_gib

CATEGORIES = ("parameters", "gradients", "optimizer_state", "activations")
OUTSIDE = "outside the model's forward"


class OperationWatcher(TorchDispatchMode):
    """Calls `record(operation, result)` after each operation."""

    def __init__(self, record: Callable[[Any, Any], None]):
        super().__init__()
        self.record = record

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it costs a tenth of a step

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.record(func, out)
        return out


class MemoryBreakdown:
    """Records every storage that appears and goes while it is active, and says afterwards what the peak was made of.

    A storage's category is known only later (is this the gradient, or a temporary?), so events are kept and replayed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        watch: Any = OperationWatcher,
    ):
        """`watch(record)` makes the context that calls `record(operation, result)` after each operation."""
        self.model = model
        self.optimizer = optimizer
        self.events: list[tuple[int, int]] = []  # (storage number, bytes: negative when it goes)
        self.category: dict[int, str] = {}
        self.source: dict[int, str] = {}  # storage number -> parameter or module, and operation
        self._watch = watch
        self._names = {id(tensor): name for name, tensor in _named_tensors(model)}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._inside: list[str] = []  # paths of the modules whose forward runs, the innermost last
        self._number: dict[int, int] = {}  # address of the storage object -> storage number
        self._count = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> "MemoryBreakdown":
        self._record_parameters()
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self._hooks.append(self._hook_gradient(parameter))
        self._hooks += [
            register_optimizer_step_pre_hook(self._before_step),
            modules.register_module_forward_pre_hook(self._enter_module),
            modules.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._record_state()
        self._watching = self._watch(self._record_result)
        self._watching.__enter__()
        return self

    def _hook_gradient(self, parameter: nn.Parameter) -> Any:
        """Record the gradient of `parameter` before any other hook sees it; returns the hook's handle."""
        handle = parameter.register_post_accumulate_grad_hook(self._record_gradient)
        # Before any hook of an optimizer that steps inside backward and drops the gradient. PyTorch goes by
        # insertion (a `move_to_end` would not reach it), so the others are put in again.
        hooks: Any = parameter._post_accumulate_grad_hooks
        for key in list(hooks):
            if key != handle.id:
                hooks[key] = hooks.pop(key)
        return handle

    def __exit__(self, *exception: Any) -> None:
        self._watching.__exit__(*exception)
        del self._watching  # which refers to this object
        # Some optimizers and wrappers give a parameter another storage.
        self._record_parameters()
        self._record_state()
        for hook in self._hooks:
            hook.remove()

    # ------------------------------------------------------------ what is recorded
    def add(
        self, tensor: torch.Tensor, category: str | None = None, source: str | None = None
    ) -> None:
        """Count the storage of `tensor`, once, from now until it is freed; a later call may still say what it is."""
        if tensor.layout is not torch.strided:
            for part in (tensor._indices(), tensor._values()):
                self.add(part, category, source)
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._number:
            self._count += 1
            number = self._count
            size = storage.nbytes()
            self._number[key] = number
            self.events.append((number, size))
            weakref.finalize(storage, self._drop, key, number, size)
        number = self._number[key]
        if category:
            self.category[number] = category
        if source and (category or number not in self.source):
            self.source[number] = source

    def _drop(self, key: int, number: int, size: int) -> None:
        if self._number.get(key) == number:
            del self._number[key]
        self.events.append((number, -size))

    def _record_parameters(self) -> None:
        for name, tensor in _named_tensors(self.model):
            self.add(tensor, "parameters", name)

    def _record_gradient(self, parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            name = self._names.get(id(parameter), "gradient")
            self.add(parameter.grad, "gradients", name)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Gradients that no hook of the model saw: of an optimizer's own copies, and what replaced a gradient."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._record_gradient(parameter)

    def _record_state(self) -> None:
        for owner, tensor in state_tensors(self.optimizer):
            name = self._names.get(id(owner), "optimizer")
            self.add(tensor, "optimizer_state", name)

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        class_name = type(module).__name__
        self._inside.append(self._paths.get(id(module), class_name))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()

    def _record_result(self, operation: Any, result: Any) -> None:
        leaves = (result,) if isinstance(result, torch.Tensor) else tree_leaves(result)
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                before = self._count
                self.add(leaf)
                if self._count > before:
                    module = self._inside[-1] if self._inside else OUTSIDE
                    name = operation.__name__.partition(".")[0]
                    self.source[self._count] = f"{module} ({name})"

    # ------------------------------------------------------------ what came of it
    def timeline(self, block: int = 1) -> Iterator[dict[str, int]]:
        """Live bytes by category after each event; every storage rounded up to whole blocks of `block` bytes."""
        live = dict.fromkeys(CATEGORIES, 0)
        for number, size in self.events:
            category = self.category.get(number, "activations")
            rounded = -(-abs(size) // block) * block
            live[category] += rounded if size > 0 else -rounded
            yield live

    def peak(self, block: int = 1) -> dict[str, int]:
        """Bytes by category at the moment when their sum was highest."""
        best: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        highest = 0
        for live in self.timeline(block):
            height = sum(live.values())
            if height > highest:
                best = dict(live)
                highest = height
        return best

    def largest(self, most: int = 10) -> list[dict]:
        """What the peak is made of: the largest sources, alike ones of all layers together, with bytes and number."""
        sizes: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, size in self._live_at_peak().items():
            # model.layers.7.mlp and model.layers.8.mlp are one line: model.layers.*.mlp
            name = re.sub(r"\.\d+(?=[. ])", ".*", self.source.get(number, "input"))
            category = self.category.get(number, "activations")
            sizes[category, name].append(size)
        sources: list[dict] = [
            {"category": category, "name": name, "bytes": sum(one), "tensors": len(one)}
            for (category, name), one in sizes.items()
        ]
        sources.sort(key=lambda source: -source["bytes"])
        return sources[:most]

    def _live_at_peak(self) -> dict[int, int]:
        """Bytes by storage number at the moment when their sum was highest."""
        heights = [sum(live.values()) for live in self.timeline()]
        last = heights.index(max(heights))
        live: dict[int, int] = defaultdict(int)
        for number, size in self.events[: last + 1]:
            live[number] += size
        return {number: size for number, size in live.items() if size}


class BreakdownPeak:
    """The breakdown of the highest of several counted steps."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}  # by category
        self.at_steps: list[int] = []  # the steps that were counted

    def add(self, peak: dict[str, int], step: int) -> None:
        """Keep the `peak` of `step` if it is the highest; the first step's gives way: it has no optimizer state yet."""
        only_the_first = self.at_steps == [1]
        if only_the_first or sum(peak.values()) > sum(self.bytes.values()):
            self.bytes = peak
        self.at_steps.append(step)

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {"bytes": self.bytes, "at_steps": self.at_steps}

    def restore(self, state: dict) -> None:
        """Go on from what `state()` gave."""
        self.bytes = state["bytes"]
        self.at_steps = state["at_steps"]

    def facts(self) -> dict:
        """The record's `train_breakdown_gib`: GiB by category, and the steps that were counted."""
        gib = {category: to_gib(size) for category, size in self.bytes.items()}
        return {**gib, "at_steps": self.at_steps}


def _named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers by name."""
    return [*model.named_parameters(), *model.named_buffers()]


def state_tensors(optimizer: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """(parameter or None, tensor) for what an optimizer keeps between steps: its state, and `extra_state_tensors`."""
    if optimizer is None:
        return
    open_items: list[tuple[Any, Any]] = list(optimizer.state.items())
    if hasattr(optimizer, "extra_state_tensors"):
        open_items += [(None, tensor) for tensor in optimizer.extra_state_tensors()]
    while open_items:
        owner, item = open_items.pop()
        if isinstance(item, torch.Tensor):
            yield owner, item
        elif isinstance(item, dict):
            open_items += [(owner, part) for part in item.values()]
        elif isinstance(item, list | tuple):
            open_items += [(owner, part) for part in item]
        elif hasattr(item, "__dict__"):
            open_items += [(owner, part) for part in vars(item).values()]
