"""Seconds of GaLore's refresh: galore-torch's SVD beside subspace iteration, for the matrices of a model of 1 billion.

Run: python tests/benchmarks/galore_refresh.py [repetitions]. CPU seconds of one matrix on one thread, medians, and the
share of the exact subspace's energy that the iterated one holds after the gradient has changed. The gradients are
products of random factors with singular values that fall by a power law, and each refresh sees another mixture of two.
"""

import statistics
import sys
import time

import torch

from tuneoff.methods._galore_projectors import Projector

SHAPES = ((2048, 2048), (2048, 5461))  # of GaLore's 1B: attention, and MLP
RANKS = (128, 512)
INTERVAL = 200


def draw_gradient(rows: int, columns: int) -> torch.Tensor:
    """A gradient whose n-th singular value is near 1 / n."""
    left = torch.linalg.qr(torch.randn(rows, rows)).Q
    right = torch.linalg.qr(torch.randn(columns, rows)).Q
    return left / torch.arange(1, rows + 1) @ right.mT


def time_refresh(projector: Projector, gradient: torch.Tensor, refresh: int) -> float:
    """CPU seconds of one renewal and projection."""
    start = time.process_time()
    projector.project(gradient, refresh * INTERVAL)
    return time.process_time() - start


def measure_energy(projector: Projector, gradient: torch.Tensor) -> float:
    """How much of the gradient's energy lies in the subspace that the projector holds."""
    return float(projector.project(gradient, 1).square().sum())


def main(repetitions: int = 3) -> None:
    """Print a line for each shape and rank."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("shape        rank  exact s  first s  subspace s  faster  energy kept")
    for rows, columns in SHAPES:
        first = draw_gradient(rows, columns)
        last = draw_gradient(rows, columns)
        for rank in RANKS:
            exact = Projector(rank, update_proj_gap=INTERVAL)
            iterated = Projector(rank, update_proj_gap=INTERVAL)
            iterated.iterates_subspace = True
            first_seconds = time_refresh(iterated, first, 0)
            exact_seconds = []
            iterated_seconds = []
            kept = []
            for refresh in range(1, repetitions + 1):
                share = 0.5 * refresh / repetitions
                gradient = (1 - share) * first + share * last
                exact_seconds.append(time_refresh(exact, gradient, refresh))
                iterated_seconds.append(time_refresh(iterated, gradient, refresh))
                kept.append(measure_energy(iterated, gradient) / measure_energy(exact, gradient))
            slow = statistics.median(exact_seconds)
            fast = statistics.median(iterated_seconds)
            print(
                f"{rows} x {columns}  {rank:4}  {slow:7.2f}  {first_seconds:7.2f}  {fast:10.2f}  "
                f"{slow / fast:5.0f}x  {min(kept):11.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
