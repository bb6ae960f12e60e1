"""A model of any size in no memory: tensors that have a shape and a type alone, and the kernels they lack."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_impls import register_op_impl
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from tuneoff.data import Batch


def to_fake(model: nn.Module) -> nn.Module:
    """Replace every parameter and buffer by a new CPU tensor of its shape, fake under a FakeTensorMode; ties stay.

    Meta tensors themselves would not do: they break under gradient checkpointing, and take another attention path.
    """
    made: dict[int, tuple[Any, Any]] = {}  # id -> (new, old); the old one is kept so that its id stays its own
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, old in list(store.items()):
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cpu")
                    new = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                    made[id(old)] = new, old
                store[name] = made[id(old)][0]
    return model


def fake_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The same batch without its values."""
    fakes: list[Any] = [mode.from_tensor(item) if isinstance(item, torch.Tensor) else item for item in batch]
    return Batch(*fakes)


@contextmanager
def host_tables() -> Iterator[None]:
    """Let bitsandbytes compute its quantisation tables, which it reads back; its update kernels have fake ones.

    The one exception to running the training code as it is, with CUDA's synchronisation where there is no CUDA.
    """
    try:
        import bitsandbytes.functional as functional
    except ImportError:
        yield
        return
    make = functional.create_dynamic_map

    def on_host(*args: Any, **kwargs: Any) -> torch.Tensor:
        with unset_fake_temporarily():
            table = make(*args, **kwargs)
        return torch.empty_like(table)

    with patch.object(functional, "create_dynamic_map", on_host), patch.object(torch.cuda, "synchronize"):
        yield


# For sparse tensors PyTorch's fake kernels run the real ones on zeros of the full size, or fail.
@register_op_impl([torch.ops.aten.mul.Tensor, torch.ops.aten.add_.Tensor])
def _sparse(mode: FakeTensorMode, func: Any, one: torch.Tensor, other: Any, **kwargs: Any) -> torch.Tensor:
    """A sparse tensor times a number; a sparse tensor added to a dense one, in place."""
    if func is torch.ops.aten.mul.Tensor and one.layout is torch.sparse_coo:
        with mode:
            return torch.sparse_coo_tensor(one._indices().clone(), torch.empty_like(one._values()), one.shape,
                                           is_coalesced=one.is_coalesced(), check_invariants=False)
    if func is torch.ops.aten.add_.Tensor and getattr(other, "layout", None) is torch.sparse_coo:
        return one
    return NotImplemented
