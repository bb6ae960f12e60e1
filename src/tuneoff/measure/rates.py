"""Rates: how fast a device multiplies matrices, moves bytes and decomposes, published or measured here."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch

from tuneoff.measure.cards import Card, find_card, read_cards_file

# Matrices of this machine's own measurement: large enough to reach the full rate, and a matter of milliseconds.
PRODUCT_SIZE = 512  # on a CPU
PRODUCT_SIZE_ON_DEVICE = 4096
COPIED_BYTES = 2**25  # beyond most caches
DECOMPOSED_SIZE = 128
# Of so many repetitions the fastest is taken, since what else runs only slows; a forecast fills these seconds.
REPETITIONS = 5
FORECAST_SECONDS = 0.1


@dataclass(frozen=True)
class Rates:
    """What a device does in a second: one end of a forecast.

    Attributes:
        matrix: floating-point operations in products, by type; float32 counts for a type that is not there.
        decomposition: floating-point operations in decompositions.
        bandwidth: bytes.
        launch_seconds: what a kernel costs beside its work.
        overlaps: whether the device computes while the host launches.
    """

    matrix: dict[str, float]
    decomposition: float
    bandwidth: float
    launch_seconds: float
    overlaps: bool

    def matrix_rate(self, dtype: str) -> float:
        """Floating-point operations a second in products of a type."""
        return self.matrix.get(dtype, self.matrix["float32"])


def forecast_rates(card: Card, tf32: bool) -> tuple[Rates, Rates]:
    """The slow and the fast end of what a card reaches in training.

    Args:
        tf32: whether float32 matrices are multiplied in TF32.
    """
    reached = read_cards_file()["reached"]
    tera = {dtype: 1e12 * tflops for dtype, tflops in card.tflops.items()}
    vector_rate = tera["float32"]
    if tf32:
        tera["float32"] = tera["tf32"]
    ends = []
    for end in (0, 1):
        share = {name: values[end] for name, values in reached.items()}
        ends.append(
            Rates(
                matrix={dtype: rate * share["matrix"] for dtype, rate in tera.items()},
                decomposition=vector_rate * share["decomposition"],
                bandwidth=1e9 * card.bandwidth * share["bandwidth"],
                launch_seconds=share["launch_seconds"],
                overlaps=True,
            )
        )
    return ends[0], ends[1]


# ---------------------------------------------------------------- measured
@cache
def measure_cpu(dtype: str, threads: int) -> tuple[Rates, Rates]:
    """The slow and the fast end of what this machine's CPU reaches; once in a process, for all that it forecasts.

    Args:
        dtype: of the products.
        threads: that torch has, for which these rates are kept.
    """
    device = torch.device("cpu")
    matrix = {}
    for name in {"float32", dtype}:
        matrix[name] = measure_matrix_rate(device, name, FORECAST_SECONDS)
    fast = Rates(
        matrix=matrix,
        decomposition=_measure_decomposition(),
        bandwidth=_measure_bandwidth(),
        launch_seconds=_measure_launch(),
        overlaps=False,
    )
    share = {name: values[0] for name, values in read_cards_file()["reached_on_cpu"].items()}
    slow = replace(
        fast,
        matrix={name: rate * share["matrix"] for name, rate in fast.matrix.items()},
        decomposition=fast.decomposition * share["decomposition"],
        bandwidth=fast.bandwidth * share["bandwidth"],
    )
    return slow, fast


def measure_matrix_rate(device: torch.device, dtype: str, least_seconds: float = 0.0) -> float:
    """Floating-point operations a second in products of square matrices on a device, at best.

    Args:
        least_seconds: how long to look at least.
    """
    size = PRODUCT_SIZE if device.type == "cpu" else PRODUCT_SIZE_ON_DEVICE
    left = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, left, out=out)
        if device.type != "cpu":
            out[0, 0].item()  # waits for it, whatever kind of device it is

    return 2 * size**3 / _time_fastest(multiply, least_seconds)


@cache
def find_matrix_rate(
    device: torch.device,
    dtype: str,
    tf32: bool,
) -> tuple[float, str]:
    """Floating-point operations a second in products that a device can do at best, and whose figure that is.

    Args:
        dtype: of the products.
        tf32: whether float32 matrices are multiplied in TF32.

    Returns:
        The rate, and `published` or `measured`.
    """
    card = None
    if device.type == "cuda":
        card = find_card(torch.cuda.get_device_name(device))
    if card is None:
        return measure_matrix_rate(device, dtype), "measured"
    kind = "tf32" if tf32 and dtype == "float32" else dtype
    return 1e12 * card.tflops[kind], "published"


def _measure_bandwidth() -> float:
    """Bytes a second, read and written, of a copy that is larger than the caches."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return 2 * COPIED_BYTES / _time_fastest(lambda: target.copy_(source), FORECAST_SECONDS)


def _measure_decomposition() -> float:
    """Floating-point operations a second of a singular value decomposition."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(DECOMPOSED_SIZE, DECOMPOSED_SIZE, generator=generator)
    decompose = partial(torch.linalg.svd, matrix, full_matrices=False)
    seconds = _time_fastest(decompose, FORECAST_SECONDS)
    return 26 * DECOMPOSED_SIZE**3 / seconds


def _measure_launch() -> float:
    """Seconds of an operation on a tensor of one number."""
    small = torch.zeros(1)

    def add_often() -> None:
        for _ in range(100):
            small.add_(1)

    return _time_fastest(add_often, FORECAST_SECONDS) / 100


def _time_fastest(action: Callable[[], Any], least_seconds: float = 0.0) -> float:
    """Seconds of the fastest of a few calls, as many as fill `least_seconds`, after one that is not counted."""
    action()
    seconds: list[float] = []
    while len(seconds) < REPETITIONS or sum(seconds) < least_seconds:
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
