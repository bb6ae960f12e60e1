"""GaLore's refreshes in a real run: how near the iterated subspace is to the exact one, and how long the slowest step takes.

Run: python tests/benchmarks/galore_steps.py [steps] [interval]. model=tiny at rank 128, one thread. First a run with
galore_svd=subspace, of which each refresh also takes the exact subspace of the same gradient: the share of its energy
that the iterated one holds, and the largest principal angle between the two, over all matrices. Then the CPU seconds a
step, median and 99th percentile, for both decompositions, refreshed together and staggered. After that the paired losses:
python train.py -cd sweeps -cn galore_svd && python -m tuneoff report outputs/galore_svd --strict
"""

import contextlib
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loop_overhead import prepared

RANK = ("galore_rank=128",)


def watch_refreshes(refreshes: list[tuple[float, float]]) -> None:
    """Let each renewal of a projector note its energy, as a share of the exact one's, and the largest angle in degrees."""
    import torch

    from tuneoff.methods._galore_projectors import Projector

    renew = Projector.get_orthogonal_matrix

    def renew_and_compare(self: Any, weights: Any, rank: int, type: str) -> Any:
        basis = renew(self, weights, rank, type)
        gradient = weights.float()
        left, _, right = torch.linalg.svd(gradient, full_matrices=False)
        if type == "left":
            exact = left[:, :rank]
            iterated = basis
        else:
            exact = right[:rank].mT
            iterated = basis.mT
            gradient = gradient.mT
        energy = (iterated.mT @ gradient).square().sum() / (exact.mT @ gradient).square().sum()
        cosines = torch.linalg.svdvals(exact.mT @ iterated).clamp(max=1.0)
        refreshes.append((float(energy), math.degrees(math.acos(float(cosines[-1])))))
        return basis

    Projector.get_orthogonal_matrix = renew_and_compare  # type: ignore[method-assign]


def time_steps(steps: int, words: Sequence[str]) -> list[float]:
    """CPU seconds of each step but the first, which finds all subspaces however they are renewed later."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        training = prepared("galore", steps, Path(folder), words=(*RANK, *words))
        training.parts.counted_steps.clear()
        training.parts.flop_meter.start = lambda step: None
        for step in range(steps):
            began = time.process_time()
            training.trainer.take_step(step)
            seconds.append(time.process_time() - began)
        training.session.recorder.close()
    return seconds[1:]


def main(steps: int = 60, interval: int = 10) -> None:
    """Print both tables."""
    import torch

    import tuneoff.methods  # noqa: F401
    from tuneoff.methods._galore_projectors import Projector

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    every = f"galore_update_interval={interval}"
    upstream = Projector.get_orthogonal_matrix
    refreshes: list[tuple[float, float]] = []
    watch_refreshes(refreshes)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        time_steps(steps, (every, "galore_svd=subspace"))
    Projector.get_orthogonal_matrix = upstream  # type: ignore[method-assign]
    energy, angles = np.array(refreshes).T
    print(f"{len(refreshes)} refreshes of a matrix, iterated beside exact:")
    print(f"energy: median {np.median(energy):.4f}, least {energy.min():.4f}")
    print(f"largest angle: median {np.median(angles):.1f}°, highest {angles.max():.1f}°")
    print("galore_svd  galore_refresh  median s  p99 s  p99 / median")
    for svd in ("exact", "subspace"):
        for refresh in ("together", "staggered"):
            words = (every, f"galore_svd={svd}", f"galore_refresh={refresh}")
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                seconds = time_steps(steps, words)
            median, slowest = np.percentile(seconds, (50, 99))
            ratio = slowest / median
            print(
                f"{svd:10}  {refresh:14}  {median:8.3f}  {slowest:5.3f}  {ratio:12.2f}", flush=True
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
