"""Step log: what a step came to, in the record, in the trackers and on the progress bar."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from tuneoff.training.setup import Parts


class StepLog:
    """Writes down each step of a run."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self._bar = tqdm(disable=True)  # the real one appears when training begins

    @contextmanager
    def progress_bar(self, first_step: int) -> Iterator[None]:
        """Show how far the run has come, where it wants that: on the first rank."""
        total = self.parts.schedule.total_steps
        shown = self.parts.experiment.progress and self.parts.ranks.first
        with tqdm(
            total=None if math.isinf(total) else int(total),
            initial=first_step,
            unit="step",
            disable=not shown,
            dynamic_ncols=True,
        ) as self._bar:
            yield

    def write(
        self, step: int, loss: float, norm: float, rates: list[float], seconds: float
    ) -> None:
        """Write down a step.

        Args:
            norm: of the gradient, before clipping.
            rates: the learning rate of each parameter group, as it was applied.
        """
        throughput = self.parts.throughput
        line = {
            "step": step,
            "loss": loss,
            "lr": rates,
            "gradient_norm": norm,
            "tokens": throughput.tokens_seen,
            "step_seconds": round(seconds, 6),
        }
        self.parts.recorder.log(line)
        values = {
            "train": {
                "loss": loss,
                "gradient_norm": norm,
                "tokens": throughput.tokens_seen,
                "tokens_per_second": throughput.tokens_per_second,
            },
            "lr": {str(group): rate for group, rate in enumerate(rates)},
        }
        self.parts.trackers.log(values, step)
        self._bar.update()
        if self.parts.experiment.progress:
            speed = throughput.tokens_per_second or 0
            memory = self.parts.peaks.current_gib()
            self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:.0f} tokens/s, {memory:.2f} GiB")
