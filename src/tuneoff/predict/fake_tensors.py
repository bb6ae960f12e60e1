"""A model of any size in no memory: tensors that have a shape and a type alone, and the kernels they lack."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_impls import register_op_impl
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from tuneoff.data import Batch

DEVICE = torch.ops.prim.device.default
CPU = torch.device("cpu")


class FakeMode(FakeTensorMode):
    """PyTorch's mode of fake tensors, with what makes a step twice as fast: it watches, and remembers, by itself.

    A watching mode above this one would double every crossing from C++ to Python; PyTorch's own memory of what an
    operation gives describes each tensor in a dozen ways, and knows nothing of some operations.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._saw: list[Callable[[Any, Any], None]] = []  # who watches, the innermost last
        self._depth = 0
        self._given: dict[tuple, Any] = {}  # operation and its arguments -> what it gives

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it costs a tenth of a step

    @contextmanager
    def watch(self, saw: Callable[[Any, Any], None]) -> Iterator[None]:
        """Call `saw(operation, result)` after each operation, but not for the parts that a fake kernel is made of."""
        self._saw.append(saw)
        try:
            yield
        finally:
            self._saw.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE:  # two of three calls
            return args[0].device
        self._depth += 1
        try:
            out = self._result(func, types, args, kwargs or {})
        finally:
            self._depth -= 1
        if self._saw and not self._depth:
            self._saw[-1](func, out)
        return out

    def _result(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What `func` gives: remembered, where the same operation on such arguments came before."""
        tensors: list[FakeTensor] = []
        described = _described((args, tuple(kwargs.items())), tensors)
        if described is None:
            return self.dispatch(func, types, args, kwargs)
        key = (func, torch.get_default_dtype(), described)
        given = self._given.get(key)
        if given is not None:
            made = [self._made(tensors, *origin) for origin in given]
            return made if len(made) > 1 else made[0]
        out = self.dispatch(func, types, args, kwargs)
        results = (out,) if isinstance(out, torch.Tensor) else out
        if isinstance(results, tuple | list) and described == _described(
            (args, tuple(kwargs.items())), []
        ):
            origins = [_origin(result, tensors) for result in results]
            if origins and None not in origins and (len(origins) > 1 or results is not out):
                self._given[key] = origins
        return out

    def _made(
        self, tensors: list[FakeTensor], source: int | None, view: tuple | None
    ) -> torch.Tensor:
        """A result: an argument itself, a view of it, or a tensor of its own."""
        if view is None:
            return tensors[source]  # type: ignore[index]
        dtype, shape, stride, offset = view
        if source is None:
            made = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        else:
            made = torch.empty(0, dtype=dtype, device="meta")
            made.set_(tensors[source].untyped_storage(), offset, shape, stride)
        return FakeTensor(self, made, CPU)


def _simple(tensor: Any) -> TypeGuard[FakeTensor]:
    """Whether shape, strides and type say all: not where values are known, nor sparse, complex or real."""
    return (
        isinstance(tensor, FakeTensor)
        and tensor.layout is torch.strided
        and tensor.constant is None
        and not tensor.dtype.is_complex
    )


def _described(arguments: Any, tensors: list[FakeTensor]) -> tuple | None:
    """All that a fake kernel goes by, hashable; None for what is not simple. Appends the tensors to `tensors`."""
    found: list[Any] = []
    for item in arguments:
        if isinstance(item, torch.Tensor):
            if not _simple(item):
                return None
            tensors.append(item)
            found += (item.dtype, item.shape, item.stride(), item.storage_offset())
        elif isinstance(item, tuple | list):
            inner = _described(item, tensors)
            if inner is None:
                return None
            found.append(inner)
        else:
            found += (type(item), item)  # 1 and 1.0 and True are equal
    return tuple(found)


def _origin(result: Any, tensors: list[FakeTensor]) -> tuple[int | None, tuple | None] | None:
    """(argument it is or is a view of, its shape and so on), None in place of either where there is none of it."""
    if not _simple(result) or result.device != CPU:
        return None
    view = (result.dtype, result.shape, result.stride(), result.storage_offset())
    place = result.untyped_storage()._cdata
    sources = [
        index for index, tensor in enumerate(tensors) if tensor.untyped_storage()._cdata == place
    ]
    if not sources:
        extent = (
            0
            if 0 in result.shape
            else 1
            + sum(
                (size - 1) * step for size, step in zip(result.shape, result.stride(), strict=True)
            )
        )
        return (
            (None, view) if result.untyped_storage().nbytes() == extent * result.itemsize else None
        )
    if len(sources) > 1:
        return None
    return sources[0], (None if result is tensors[sources[0]] else view)


def to_fake(model: nn.Module) -> nn.Module:
    """Replace every parameter and buffer by a new CPU tensor of its shape, fake under a FakeTensorMode; ties stay.

    Meta tensors themselves would not do: they break under gradient checkpointing, and take another attention path.
    """
    made: dict[
        int, tuple[Any, Any]
    ] = {}  # id -> (new, old); the old one is kept so that its id stays its own
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, old in list(store.items()):
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty_strided(
                        old.shape, old.stride(), dtype=old.dtype, device="cpu"
                    )
                    new = (
                        nn.Parameter(new, old.requires_grad)
                        if isinstance(old, nn.Parameter)
                        else new
                    )
                    made[id(old)] = new, old
                store[name] = made[id(old)][0]
    return model


def fake_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The same batch without its values."""
    fakes: list[Any] = [
        mode.from_tensor(item) if isinstance(item, torch.Tensor) else item for item in batch
    ]
    return Batch(*fakes)


@contextmanager
def patch_quantization_tables() -> Iterator[None]:
    """Let bitsandbytes compute its quantisation tables, which it reads back; its update kernels have fake ones.

    The one exception to running the training code as it is, with CUDA's synchronisation where there is no CUDA.
    """
    import bitsandbytes.functional as functional

    make = functional.create_dynamic_map

    def on_host(*args: Any, **kwargs: Any) -> torch.Tensor:
        with unset_fake_temporarily():
            table = make(*args, **kwargs)
        return torch.empty_like(table)

    with (
        patch.object(functional, "create_dynamic_map", on_host),
        patch.object(torch.cuda, "synchronize"),
    ):
        yield


# For sparse tensors PyTorch's fake kernels run the real ones on zeros of the full size, or fail.
@register_op_impl([torch.ops.aten.mul.Tensor, torch.ops.aten.add_.Tensor])
def _sparse(
    mode: FakeTensorMode, func: Any, one: torch.Tensor, other: Any, **kwargs: Any
) -> torch.Tensor:
    """A sparse tensor times a number; a sparse tensor added to a dense one, in place."""
    if func is torch.ops.aten.mul.Tensor and one.layout is torch.sparse_coo:
        with mode:
            return torch.sparse_coo_tensor(
                one._indices().clone(),
                torch.empty_like(one._values()),
                one.shape,
                is_coalesced=one.is_coalesced(),
                check_invariants=False,
            )
    if func is torch.ops.aten.add_.Tensor and getattr(other, "layout", None) is torch.sparse_coo:
        return one
    return NotImplemented
