"""What memory is made of: every storage from its first appearance to its end, in a real step or on fake tensors."""

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

CATEGORIES = ("parameters", "gradients", "optimizer_state", "activations")


class OperationWatcher(TorchDispatchMode):
    """Calls `saw(operation, result)` after each operation."""

    def __init__(self, saw: Callable[[Any, Any], None]):
        super().__init__()
        self.saw = saw

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it costs a tenth of a step

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.saw(func, out)
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
        """`watch(saw)` makes the context that calls `saw(operation, result)` after each operation."""
        self.model, self.optimizer, self._watch = model, optimizer, watch
        self.events: list[tuple[int, int]] = []  # (storage number, bytes: negative when it goes)
        self.category: dict[int, str] = {}
        self.source: dict[int, str] = {}  # storage number -> parameter or module, and operation
        self._names = {
            id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._inside: list[str] = []  # paths of the modules whose forward runs, the innermost last
        self._number: dict[int, int] = {}  # address of the storage object -> storage number
        self._count = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> "MemoryBreakdown":
        self._saw_parameters()
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._saw_gradient)
                # Before any hook of an optimizer that steps inside backward and drops the gradient. PyTorch goes by
                # insertion (a `move_to_end` would not reach it), so the others are put in again.
                hooks: Any = parameter._post_accumulate_grad_hooks
                hooks.update([(key, hooks.pop(key)) for key in list(hooks) if key != hook.id])
                self._hooks.append(hook)
        self._hooks += [
            register_optimizer_step_pre_hook(self._before_step),
            modules.register_module_forward_pre_hook(self._enter_module),
            modules.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._saw_state()
        self._watching = self._watch(self._saw_result)
        self._watching.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._watching.__exit__(*exception)
        del self._watching  # which refers to this object
        self._saw_parameters()  # some optimizers and wrappers give a parameter another storage
        self._saw_state()
        for hook in self._hooks:
            hook.remove()

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
            number, size = self._count, storage.nbytes()
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

    def _saw_parameters(self) -> None:
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            self.add(tensor, "parameters", name)

    def _saw_gradient(self, parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            self.add(parameter.grad, "gradients", self._names.get(id(parameter), "gradient"))

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Gradients that no hook of the model saw: of an optimizer's own copies, and what replaced a gradient."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._saw_gradient(parameter)

    def _saw_state(self) -> None:
        for owner, tensor in state_tensors(self.optimizer):
            self.add(tensor, "optimizer_state", self._names.get(id(owner), "optimizer"))

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self._inside.append(self._paths.get(id(module), type(module).__name__))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()

    def _saw_result(self, operation: Any, result: Any) -> None:
        for leaf in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                before = self._count
                self.add(leaf)
                if self._count > before:
                    place = self._inside[-1] if self._inside else "outside the model's forward"
                    self.source[self._count] = f"{place} ({operation.__name__.partition('.')[0]})"

    def timeline(self, block: int = 1) -> Iterator[dict[str, int]]:
        """Live bytes by category after each event; every storage rounded up to whole blocks of `block` bytes."""
        live = dict.fromkeys(CATEGORIES, 0)
        for number, size in self.events:
            live[self.category.get(number, "activations")] += -(-abs(size) // block) * (
                block if size > 0 else -block
            )
            yield live

    def peak(self, block: int = 1) -> dict[str, int]:
        """Bytes by category at the moment when their sum was highest."""
        best: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        for live in self.timeline(block):
            if sum(live.values()) > sum(best.values()):
                best = dict(live)
        return best

    def largest(self, most: int = 10) -> list[dict]:
        """What the peak is made of: the largest sources, alike ones of all layers together, with bytes and number."""
        heights = [sum(live.values()) for live in self.timeline()]
        live: dict[int, int] = defaultdict(int)
        for number, size in self.events[: heights.index(max(heights)) + 1]:
            live[number] += size
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, size in live.items():
            if size:
                # model.layers.7.mlp and model.layers.8.mlp are one line: model.layers.*.mlp
                name = re.sub(r"\.\d+(?=[. ])", ".*", self.source.get(number, "input"))
                found[self.category.get(number, "activations"), name].append(size)
        ranked = sorted(found.items(), key=lambda item: -sum(item[1]))[:most]
        return [
            {"category": category, "name": name, "bytes": sum(sizes), "tensors": len(sizes)}
            for (category, name), sizes in ranked
        ]


def state_tensors(optimizer: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """(parameter or None, tensor) for what an optimizer keeps between steps: its state, and `extra_state_tensors`."""
    if optimizer is None:
        return
    extra: list[torch.Tensor] = getattr(optimizer, "extra_state_tensors", list)()
    seen = [*optimizer.state.items(), *((None, tensor) for tensor in extra)]
    while seen:
        owner, item = seen.pop()
        if isinstance(item, torch.Tensor):
            yield owner, item
        elif isinstance(item, dict):
            seen.extend((owner, part) for part in item.values())
        elif isinstance(item, list | tuple):
            seen.extend((owner, part) for part in item)
        elif hasattr(item, "__dict__"):
            seen.extend((owner, part) for part in vars(item).values())


def keep_highest_peak(kept: dict, peak: dict[str, int], step: int) -> None:
    """Put `peak` into `kept` if it is the highest; the first step's gives way: no optimizer state is in it yet."""
    if kept.get("at_steps") == [1] or sum(peak.values()) > sum(kept.get("bytes", {}).values()):
        kept["bytes"] = peak
    kept.setdefault("at_steps", []).append(step)
