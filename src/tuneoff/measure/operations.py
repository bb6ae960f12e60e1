"""Operations: what each one asks of a device, in floating-point operations, bytes and kernels."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
MATRIX = "matrix"  # products, attention
DECOMPOSITION = "decomposition"
OTHER = "other"  # bound by memory


class Operation(NamedTuple):
    """What one operation asks of a device."""

    kind: str
    dtype: str  # of its result, without `torch.`
    flops: int  # of products and decompositions; the others are bound by memory
    bytes: int  # read and written


# ---------------------------------------------------------------- what PyTorch's own list lacks
def _count_cpu_attention(query: Any, key: Any, value: Any, *rest: Any) -> int:
    """Attention as PyTorch's CPU kernel does it."""
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _count_cpu_attention_backward(
    grad: Any,
    query: Any,
    key: Any,
    value: Any,
    *rest: Any,
) -> int:
    """Its backward pass, which computes the scores again."""
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


def _count_grouped_product(first: Any, second: Any, *rest: Any) -> int:
    """A product of groups: either side a stack, or one matrix that is divided into groups."""
    columns = second.shape[-1]
    if first.dim() == 3 and second.dim() == 2:
        columns //= first.shape[0]
    return 2 * first.numel() * columns


def _count_4bit_product(inputs: Any, packed: Any, shape: Any, *rest: Any) -> int:
    """A product with a 4-bit weight, which is packed: its (n, k) are beside it."""
    return 2 * inputs.numel() * shape[0]


def _count_8bit_product(inputs: Any, weight: Any, *rest: Any) -> int:
    """A product with an 8-bit weight of (n, k)."""
    return 2 * inputs.numel() * weight.shape[0]


def _count_mixed_product(unquantized: Any, inputs: Any, weight: Any, *rest: Any) -> int:
    """A product with an 8-bit weight, without what is added for the few columns of outliers."""
    return _count_8bit_product(inputs, weight)


def _count_svd(matrix: Any, *rest: Any) -> int:
    """Singular values and the first min(m, n) vectors of both sides: 6 m n² + 20 n³ (Golub & Van Loan, table 8.6.1)."""
    *stack, rows, columns = matrix.shape
    small, large = sorted((rows, columns))
    return prod(stack) * (6 * large * small**2 + 20 * small**3)


def _count_qr(matrix: Any, *rest: Any) -> int:
    """Q and R by Householder's reflections: 4 m n² - 4/3 n³ (Golub & Van Loan, section 5.2)."""
    *stack, rows, columns = matrix.shape
    small, large = sorted((rows, columns))
    return prod(stack) * (4 * large * small**2 - 4 * small**3 // 3)


def _count_eigh(matrix: Any, *rest: Any) -> int:
    """Eigenvalues and vectors of a symmetric matrix: 9 n³ (Golub & Van Loan, section 8.3)."""
    *stack, rows, _ = matrix.shape
    return prod(stack) * 9 * rows**3


ATTENTION: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _count_cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _count_cpu_attention_backward,
    aten._grouped_mm: _count_grouped_product,
}
# By name, since bitsandbytes may be absent. Only the products of its backward pass are PyTorch's own.
QUANTIZED: dict[str, Callable[..., int]] = {
    "bitsandbytes::gemm_4bit": _count_4bit_product,
    "bitsandbytes::gemv_4bit": _count_4bit_product,
    "bitsandbytes::int8_linear_matmul": _count_8bit_product,
    "bitsandbytes::int8_scaled_mm": _count_8bit_product,
    "bitsandbytes::int8_mixed_scaled_mm": _count_mixed_product,
}
DECOMPOSITIONS: dict[Any, Callable[..., int]] = {
    aten._linalg_svd: _count_svd,
    aten.linalg_qr: _count_qr,
    aten._linalg_eigh: _count_eigh,
}
# Of a large tensor they read no more than they give.
LOOK_UPS = (aten.embedding, aten.index_select, aten.gather, aten.index)
# They give a tensor of other sizes over the same memory, or memory without content: no kernel runs.
WITHOUT_KERNEL = (
    aten._unsafe_view,
    aten._reshape_alias,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.lift_fresh,
    aten.set_,
    aten.resize_,
)


class WrittenArgument(NamedTuple):
    """An argument that an operation writes."""

    place: int  # among the positional ones
    name: str
    is_out: bool  # written, and not read


def describe_operation(func: Any, args: Any, kwargs: Any, result: Any) -> Operation | None:
    """What an operation asks of a device; None where no kernel runs."""
    packet = func.overloadpacket
    if func.is_view or packet in WITHOUT_KERNEL or func.namespace == "prim":
        return None
    kwargs = kwargs or {}
    outputs = list(_find_tensors((result,)))
    if not outputs:
        outputs = list(_find_written_tensors(func, args, kwargs))
    moved = sum(map(_count_bytes, outputs))
    if packet in LOOK_UPS:
        moved *= 2
    else:
        moved += sum(map(_count_bytes, _find_read_tensors(func, args, kwargs)))
    dtype = str(outputs[0].dtype if outputs else torch.float32).removeprefix("torch.")
    kind, flops = count_flops(packet, args, kwargs, result)
    return Operation(kind, dtype, flops, moved)


@cache
def _list_written_arguments(func: Any) -> list[WrittenArgument]:
    """The arguments that an operation writes, by its schema, which is slow to read."""
    written = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(WrittenArgument(place, argument.name, argument.is_out))
    return written


def _find_written_tensors(func: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """What an operation writes that returns nothing, as the fused optimizers and those over lists of tensors do."""
    for argument in _list_written_arguments(func):
        # Fused optimizers write gradients only where they divide them by a scale.
        if argument.name == "grads" and kwargs.get("grad_scale") is None:
            continue
        if argument.place < len(args):
            yield from _find_tensors((args[argument.place],))
        else:
            yield from _find_tensors((kwargs.get(argument.name),))


def _find_read_tensors(func: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """What an operation reads: all of its arguments but `out`."""
    yield from _find_tensors(args)
    if not kwargs:
        return
    out = {argument.name for argument in _list_written_arguments(func) if argument.is_out}
    for name, value in kwargs.items():
        if name not in out:
            yield from _find_tensors((value,))


def count_flops(
    packet: Any,
    args: Any,
    kwargs: Any,
    result: Any,
) -> tuple[str, int]:
    """The kind of an operation, and its floating-point operations; 0 where a formula does not know such arguments."""
    kind = OTHER
    flops = 0
    # A figure beside the run must not end it.
    with suppress(AssertionError, AttributeError, IndexError, TypeError, ValueError):
        count: Any = flop_registry.get(packet)
        if count is not None:
            kind = MATRIX
            flops = int(count(*args, **kwargs, out_val=result))
        elif packet in ATTENTION:
            kind = MATRIX
            flops = int(ATTENTION[packet](*args))
        elif packet in DECOMPOSITIONS:
            kind = DECOMPOSITION
            flops = int(DECOMPOSITIONS[packet](*args))
        elif packet._qualified_op_name in QUANTIZED:
            kind = MATRIX
            flops = int(QUANTIZED[packet._qualified_op_name](*args))
    return kind, flops


def _count_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements; of a sparse one, of its indices and values."""
    if tensor.layout is torch.strided:
        return tensor.nbytes
    if tensor.layout is torch.sparse_coo:
        return tensor._indices().nbytes + tensor._values().nbytes
    return 0


def _find_tensors(items: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments, those in lists included."""
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, tuple | list):
            yield from _find_tensors(item)


class OperationCounts:
    """How often each operation came; alike ones are one entry."""

    def __init__(self) -> None:
        self.counts: Counter[Operation] = Counter()

    def add(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Count an operation that was done."""
        operation = describe_operation(func, args, kwargs, result)
        if operation is not None:
            self.counts[operation] += 1

    def total_flops(self, *kinds: str) -> int:
        """Floating-point operations of these kinds, of all where none is named."""
        return sum(
            one.flops * times
            for one, times in self.counts.items()
            if not kinds or one.kind in kinds
        )

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(one.bytes * times for one, times in self.counts.items())

    @property
    def kernels(self) -> int:
        """How many kernels run."""
        return sum(self.counts.values())
