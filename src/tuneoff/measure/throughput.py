"""Throughput: tokens and seconds of the measured train steps."""

from typing import Any

import numpy as np

WARMUP_STEPS = 3  # not measured: allocators and caches fill up
PERCENTILES = (50, 90, 99)  # of the seconds a step, in the record


class Throughput:
    """Tokens and seconds of the measured train steps: no warm-up step, no counted step, no evaluation."""

    def __init__(self, warmup_steps: int = WARMUP_STEPS):
        self.warmup_steps = warmup_steps
        self._cold_steps = (
            warmup_steps  # still to come in this process: one that goes on begins cold again
        )
        # Of all steps:
        self.steps = 0
        self.tokens_seen = 0
        self.train_seconds = 0.0
        # Of the measured ones:
        self.seconds: list[float] = []
        self.tokens = 0
        self.padded = 0
        self.samples = 0

    def add(
        self,
        seconds: float,
        tokens: int,
        padded: int,
        samples: int,
        measured: bool,
    ) -> None:
        """Count one step.

        Args:
            tokens: without padding.
            padded: all positions, padding included.
            samples: examples.
            measured: whether the step counts, once the warm-up is over.
        """
        self.steps += 1
        self.tokens_seen += tokens
        self.train_seconds += seconds
        if self._cold_steps > 0:
            self._cold_steps -= 1
        elif measured:
            self.seconds.append(seconds)
            self.tokens += tokens
            self.padded += padded
            self.samples += samples

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: every count of the run, and none of this process."""
        counts = dict(vars(self))
        del counts["_cold_steps"]
        return counts

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting from what `state()` gave."""
        for name in self.state():
            setattr(self, name, state[name])

    @property
    def tokens_per_second(self) -> float | None:
        """Non-padding tokens a second of measured train steps; None before the first."""
        if not self.seconds:
            return None
        return self.tokens / sum(self.seconds)

    def facts(self) -> dict:
        """The record's `throughput`."""
        facts: dict = {
            "measured_steps": len(self.seconds),
            "warmup_steps": min(self.warmup_steps, self.steps),
            "train_seconds": round(self.train_seconds, 3),
            "tokens_seen": self.tokens_seen,
            "tokens_per_second": None,
            "padded_tokens_per_second": None,
            "samples_per_second": None,
            "padding_share": None,
            "step_seconds": None,
        }
        if self.seconds:
            total = sum(self.seconds)
            facts["tokens_per_second"] = round(self.tokens / total, 1)
            facts["padded_tokens_per_second"] = round(self.padded / total, 1)
            facts["samples_per_second"] = round(self.samples / total, 2)
            facts["padding_share"] = round(1 - self.tokens / self.padded, 4)
            facts["step_seconds"] = self._step_percentiles()
        return facts

    def _step_percentiles(self) -> dict[str, float]:
        values = np.percentile(self.seconds, PERCENTILES)
        return {
            f"p{percent}": round(float(value), 5)
            for percent, value in zip(PERCENTILES, values, strict=True)
        }
