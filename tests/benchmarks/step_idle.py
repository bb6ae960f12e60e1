"""How long a device waits for the host between two steps: on a device made of a thread, whose kernel sleeps 30 ms.

Run: python tests/benchmarks/step_idle.py [steps] [tracker] [settings …], or the same by torchrun --nproc_per_node 2.
Everything around the step is the run's own: rows, batches, schedule, record, tracker, and what ranks tell each other.
Printed are the shares of a bare loop's speed, which reads each step's loss and does no more: once reading a step at its
end, and once while the next one runs.
"""

import logging
import sys
import tempfile
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from loop_overhead import prepared

from tuneoff.distributed.launch import get_rank

KERNEL_SECONDS = 0.03
WARMUP_STEPS = 5


class LateNumber:
    """A number that the device has when its kernel is done."""

    device = SimpleNamespace(type="thread")

    def __init__(self, future: Future):
        self.future = future

    def item(self) -> float:
        """Wait for the kernel."""
        return self.future.result()


def sleep_as_kernel() -> float:
    """What the device does in a step."""
    time.sleep(KERNEL_SECONDS)
    return 1.0


def time_bare_loop(steps: int) -> float:
    """Seconds a step of a loop that launches, and reads."""
    with ThreadPoolExecutor(1) as device:
        started = time.perf_counter()
        for _ in range(steps):
            LateNumber(device.submit(sleep_as_kernel)).item()
        return (time.perf_counter() - started) / steps


def time_run(steps: int, tracker: str, words: list[str], runs_ahead: bool, folder: Path) -> float:
    """Seconds a step of a run, from the end of its warm-up to the last kernel."""
    from tuneoff.training import step_under_way
    from tuneoff.training.step import StepResult

    training = prepared("full", steps + WARMUP_STEPS, folder, tracker, words)
    training.parts.counted_steps.clear()
    ends: list[float] = []
    with ThreadPoolExecutor(1) as device:

        def kernel() -> float:
            loss = sleep_as_kernel()
            ends.append(time.perf_counter())
            return loss

        def launch(*arguments: object) -> StepResult:
            number = LateNumber(device.submit(kernel))
            return StepResult(number, number)

        step_under_way.train_step = launch
        training.trainer.runs_ahead = runs_ahead
        training.fit()
    training.parts.trackers.finish({})
    return (ends[-1] - ends[WARMUP_STEPS - 1]) / (len(ends) - WARMUP_STEPS)


def show(text: str) -> None:
    """Print a line, on the first rank."""
    if not get_rank():
        print(text, flush=True)


def main(steps: int = 100, tracker: str = "none", *words: str) -> None:
    """Print a line each."""
    logging.disable(logging.WARNING)
    # The optimizer has no step to take.
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    bare = time_bare_loop(steps)
    show(f"bare loop: {1000 * bare:.2f} ms a step")
    for name, runs_ahead in (("read at its end", False), ("read while the next runs", True)):
        with tempfile.TemporaryDirectory() as folder:
            seconds = time_run(steps, tracker, list(words), runs_ahead, Path(folder))
        idle = 1000 * (seconds - KERNEL_SECONDS)
        show(
            f"{name}: {1000 * seconds:.2f} ms a step, {idle:.2f} of them idle, {bare / seconds:.3f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, *sys.argv[2:])
