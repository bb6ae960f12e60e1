"""A model of any size in no memory: its tensors without their values, and the kernels that such tensors lack."""

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
    fakes: dict[torch.Tensor, torch.Tensor] = {}  # by the tensor that each replaces
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in list(tensors.items()):
                if old is None:
                    continue
                if old not in fakes:
                    fakes[old] = _empty_copy(old)
                tensors[name] = fakes[old]  # type: ignore[assignment]
    return model


def _empty_copy(old: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape and type on the CPU; a parameter where `old` is one."""
    new = torch.empty_strided(
        old.shape,
        old.stride(),
        dtype=old.dtype,
        device="cpu",
    )
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, old.requires_grad)
    return new


def fake_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The same batch without its values."""
    fakes: dict[str, Any] = {
        name: mode.from_tensor(item)
        for name, item in batch._asdict().items()
        if isinstance(item, torch.Tensor)
    }
    return batch._replace(**fakes)


@contextmanager
def patch_quantization_tables() -> Iterator[None]:
    """Let bitsandbytes compute its quantisation tables, which it reads back; its update kernels have fake ones.

    The one exception to running the training code as it is.
    """
    import bitsandbytes.functional as functional

    create_table = functional.create_dynamic_map

    def create_on_host(*args: Any, **kwargs: Any) -> torch.Tensor:
        with unset_fake_temporarily():
            table = create_table(*args, **kwargs)
        return torch.empty_like(table)

    with patch.object(functional, "create_dynamic_map", create_on_host):
        yield


# For sparse tensors PyTorch's fake kernels run the real ones on zeros of the full size, or fail.
MULTIPLY = torch.ops.aten.mul.Tensor
ADD_IN_PLACE = torch.ops.aten.add_.Tensor


@register_op_impl([MULTIPLY, ADD_IN_PLACE])
def _run_sparse(
    mode: FakeTensorMode,
    func: Any,
    first: torch.Tensor,
    second: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """A sparse tensor times a number; a sparse tensor added to a dense one, in place."""
    if func is MULTIPLY and first.layout is torch.sparse_coo:
        with mode:
            return torch.sparse_coo_tensor(
                first._indices().clone(),
                torch.empty_like(first._values()),
                first.shape,
                is_coalesced=first.is_coalesced(),
                check_invariants=False,
            )
    adds_sparse = getattr(second, "layout", None) is torch.sparse_coo
    if func is ADD_IN_PLACE and adds_sparse:
        return first
    return NotImplemented
