"""The mode of fake tensors that a prediction runs in: fast, and watched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tuneoff.measure.operations import OperationCounts

DEVICE = torch.ops.prim.device.default
CPU = torch.device("cpu")


class Layout(NamedTuple):
    """How a tensor lies in its storage."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: Any  # int


class Origin(NamedTuple):
    """Where a result's storage comes from, and how the result lies in it."""

    argument: int | None  # number of the tensor among the arguments; None for a storage of its own
    layout: Layout | None  # None where the result is that argument itself


GROUPED_PRODUCT = torch.ops.aten._grouped_mm.default


class FakeMode(FakeTensorMode):
    """PyTorch's mode of fake tensors, with two things that make a step twice as fast.

    It can be watched itself: a watching mode above this one would double every crossing from C++ to Python. And it
    remembers what an operation gives: PyTorch's own memory describes each tensor in a dozen ways, and knows nothing of
    some operations.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._watchers: list[Callable[[Any, Any], None]] = []  # the innermost last
        self._counts: OperationCounts | None = None  # where operations are counted
        self._depth = 0
        self._remembered: dict[tuple, list[Origin]] = {}  # of an operation and its arguments

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it costs a tenth of a step

    @contextmanager
    def watch(self, watcher: Callable[[Any, Any], None]) -> Iterator[None]:
        """Call `watcher(operation, result)` after each operation; not after those that a fake kernel is made of."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.pop()

    @contextmanager
    def count_operations(self) -> Iterator[OperationCounts]:
        """Count what each operation asks of a device; not those that a fake kernel is made of."""
        self._counts = OperationCounts()
        try:
            yield self._counts
        finally:
            self._counts = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        if func is DEVICE:  # two of three calls
            return args[0].device
        self._depth += 1
        try:
            result = self._run(func, types, args, kwargs or {})
        finally:
            self._depth -= 1
        if not self._depth:
            if self._watchers:
                self._watchers[-1](func, result)
            if self._counts is not None:
                self._count(func, args, kwargs, result)
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Count an operation; looking at a sparse tensor's parts is none."""
        assert self._counts is not None
        self._depth += 1
        try:
            self._counts.add(func, args, kwargs, result)
        finally:
            self._depth -= 1

    def dispatch(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """PyTorch's own, but for a product of groups: its fake kernel takes bfloat16 alone, the real ones any type."""
        if func is GROUPED_PRODUCT and args[0].dtype is not torch.bfloat16:
            return self._multiply_groups(*args, **(kwargs or {}))
        return super().dispatch(func, types, args, kwargs)

    def _multiply_groups(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        offs: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The product of stacks of matrices, either of which may lie in one matrix that `offs` divides into groups."""
        rows = first.shape[-2]
        columns = second.shape[-1]
        shape: tuple[int, ...] = (rows, columns)
        if first.dim() == second.dim() == 3:
            shape = (first.shape[0], rows, columns)
        elif first.dim() == second.dim() == 2:
            assert offs is not None
            shape = (offs.shape[0], rows, columns)
        meta = torch.empty(shape, dtype=out_dtype or first.dtype, device="meta")
        return FakeTensor(self, meta, CPU)

    def _run(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The result of `func`: remembered, where the same operation on such arguments came before."""
        arguments = (args, tuple(kwargs.items()))
        tensors: list[FakeTensor] = []
        description = _describe(arguments, tensors)
        if description is None:
            return self.dispatch(func, types, args, kwargs)
        key = (func, torch.get_default_dtype(), description)
        origins = self._remembered.get(key)
        if origins is not None:
            copies = [self._make(tensors, origin) for origin in origins]
            return copies if len(copies) > 1 else copies[0]
        result = self.dispatch(func, types, args, kwargs)
        if description == _describe(arguments, []):  # it changed none of its arguments' shapes
            origins = _origins(result, tensors)
            if origins:
                self._remembered[key] = origins
        return result

    def _make(self, tensors: list[FakeTensor], origin: Origin) -> torch.Tensor:
        """A result: an argument itself, a view of it, or a tensor of its own."""
        if origin.layout is None:
            assert origin.argument is not None
            return tensors[origin.argument]
        dtype, shape, stride, offset = origin.layout
        if origin.argument is None:
            meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        else:
            meta = torch.empty(0, dtype=dtype, device="meta")
            meta.set_(tensors[origin.argument].untyped_storage(), offset, shape, stride)
        return FakeTensor(self, meta, CPU)


def _is_simple(tensor: Any) -> TypeGuard[FakeTensor]:
    """Whether shape, strides and type say all: not where values are known, nor sparse, complex or real."""
    return (
        isinstance(tensor, FakeTensor)
        and tensor.layout is torch.strided
        and tensor.constant is None
        and not tensor.dtype.is_complex
    )


def _layout(tensor: torch.Tensor) -> Layout:
    return Layout(tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())


def _describe(arguments: Any, tensors: list[FakeTensor]) -> tuple | None:
    """All that a fake kernel goes by, hashable; None for what is not simple. Appends the tensors to `tensors`."""
    description: list[Any] = []
    for item in arguments:
        if isinstance(item, torch.Tensor):
            if not _is_simple(item):
                return None
            tensors.append(item)
            description += _layout(item)
        elif isinstance(item, tuple | list):
            inner = _describe(item, tensors)
            if inner is None:
                return None
            description.append(inner)
        else:
            description += (type(item), item)  # 1 and 1.0 and True are equal
    return tuple(description)


def _origins(result: Any, tensors: list[FakeTensor]) -> list[Origin] | None:
    """Where each tensor of a result comes from; None where that cannot be told of one of them."""
    alone = isinstance(result, torch.Tensor)
    results = (result,) if alone else result
    if not isinstance(results, tuple | list):
        return None
    origins: list[Origin] = []
    for one in results:
        origin = _origin(one, tensors)
        if origin is None:
            return None
        origins.append(origin)
    # A sequence of one tensor would come back as the tensor.
    return origins if alone or len(origins) > 1 else None


def _origin(result: Any, tensors: list[FakeTensor]) -> Origin | None:
    """Where a result comes from; None where that cannot be told."""
    if not _is_simple(result) or result.device != CPU:
        return None
    storage = result.untyped_storage()
    arguments = [
        index
        for index, tensor in enumerate(tensors)
        if tensor.untyped_storage()._cdata == storage._cdata
    ]
    if len(arguments) > 1:
        return None
    if not arguments:
        fills_storage = storage.nbytes() == _extent(result) * result.itemsize
        return Origin(None, _layout(result)) if fills_storage else None
    argument = arguments[0]
    if result is tensors[argument]:
        return Origin(argument, None)
    return Origin(argument, _layout(result))


def _extent(tensor: torch.Tensor) -> int:
    """How many elements lie from a tensor's first to its last, both included."""
    if 0 in tensor.shape:
        return 0
    last = 0
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        last += (size - 1) * step
    return last + 1
