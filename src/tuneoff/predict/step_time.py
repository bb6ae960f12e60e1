"""Step time: how long a step takes on a device, from the operations that it is made of and the device's rates."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tuneoff.measure.operations import DECOMPOSITION, MATRIX, Operation, OperationCounts
from tuneoff.measure.rates import Rates

TERA = 10**12


class TypicalStep(NamedTuple):
    """One kind of a method's steps, and how often it comes: the shares of all kinds add up to 1."""

    share: float
    counts: OperationCounts


def estimate_seconds(counts: OperationCounts, rates: Rates) -> float:
    """Seconds of a step: each operation is bound by its arithmetic or by memory; the host may be slower than both."""
    busy = 0.0
    for operation, times in counts.counts.items():
        busy += times * _estimate_operation(operation, rates)
    launching = counts.kernels * rates.launch_seconds
    return max(busy, launching) if rates.overlaps else busy + launching


def _estimate_operation(operation: Operation, rates: Rates) -> float:
    """Seconds of one operation, without its launch."""
    computing = 0.0
    if operation.kind == MATRIX:
        computing = operation.flops / rates.matrix_rate(operation.dtype)
    elif operation.kind == DECOMPOSITION:
        computing = operation.flops / rates.decomposition
    return max(computing, operation.bytes / rates.bandwidth)


def mean_seconds(steps: Iterable[TypicalStep], rates: Rates) -> float:
    """Seconds a step in the mean over a method's kinds of steps."""
    return sum(step.share * estimate_seconds(step.counts, rates) for step in steps)


def describe_work(steps: Sequence[TypicalStep]) -> dict[str, float]:
    """What a step asks of a device, in the mean: prediction.json's `work_a_step`."""
    flops = sum(step.share * step.counts.total_flops() for step in steps)
    moved = sum(step.share * step.counts.bytes for step in steps)
    kernels = sum(step.share * step.counts.kernels for step in steps)
    return {
        "tflop": round(flops / TERA, 6),
        "gib_moved": round(moved / 2**30, 4),
        "kernels": round(kernels),
    }


def choose_spread(phases: Sequence[int], most: int) -> list[int]:
    """At most `most` of `phases`, evenly spread, the first and the last among them."""
    if len(phases) <= most:
        return list(phases)
    last = len(phases) - 1
    places = [round(index * last / (most - 1)) for index in range(most)]
    return [phases[place] for place in places]
