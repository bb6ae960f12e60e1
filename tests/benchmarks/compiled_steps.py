"""What compile=true gains: CPU seconds of train steps as they are and compiled, and the seconds that compiling took.

Run: python tests/benchmarks/compiled_steps.py [passes] [steps] [methods]. model=tiny, one thread. Each pass takes the same
steps in two runs, in turn; the compiled one pads its rows to four lengths, which counts against it. A first pass, in which
all is compiled, is not counted. Printed are the medians over the passes, with their range.
"""

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loop_overhead import prepared

METHODS = "full,lora,dora,galore"


def prepare_pair(method: str, steps: int, folder: Path) -> list[Any]:
    """Two runs of a method that are set up: as it is, and compiled."""
    runs = []
    for compiled in ("false", "true"):
        run = prepared(method, steps, folder / compiled, words=(f"compile={compiled}",))
        run.parts.counted_steps.clear()
        run.parts.flop_meter.start = lambda step: None
        runs.append(run)
    return runs


def time_pass(runs: list[Any], steps: int) -> list[float]:
    """CPU seconds of each run over the same steps, which they take in turn."""
    seconds = [0.0, 0.0]
    for step in range(steps):
        for index in (0, 1) if step % 2 else (1, 0):
            began = time.process_time()
            runs[index].trainer.take_step(step)
            seconds[index] += time.process_time() - began
    return seconds


def measure(method: str, passes: int, steps: int) -> str:
    """The line of a method."""
    with tempfile.TemporaryDirectory() as folder:
        runs = prepare_pair(method, steps, Path(folder))
        time_pass(runs, steps)
        timed = [time_pass(runs, steps) for _ in range(passes)]
        for run in runs:
            run.session.recorder.close()
    plain, compiled = (statistics.median(column) / steps for column in zip(*timed, strict=True))
    gains = [first / second for first, second in timed]
    layers = runs[1].parts.layers
    return (
        f"{method:16}  {plain:7.3f}  {compiled:10.3f}  {statistics.median(gains):.2f} "
        f"({min(gains):.2f} to {max(gains):.2f})  {layers.seconds:9.0f}  {layers.lengths}"
    )


def main(passes: int = 3, steps: int = 12, methods: str = METHODS) -> None:
    """Print a line a method."""
    import torch

    import tuneoff.methods  # noqa: F401

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print("method            plain s  compiled s  gain                 compiling s  lengths")
    for method in methods.split(","):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            line = measure(method, passes, steps)
        print(line, flush=True)


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, int, str), sys.argv[1:], strict=False)))
