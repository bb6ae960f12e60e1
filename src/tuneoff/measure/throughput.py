"""Throughput: tokens and seconds of the measured train steps."""

import statistics
from collections.abc import Iterable

WARMUP_STEPS = 3  # not measured: allocators and caches fill up


class Throughput:
    """Tokens and seconds of the measured train steps: no warm-up step, no counted step, no evaluation."""

    def __init__(self, warmup_steps: int = WARMUP_STEPS):
        self.warmup_steps, self.seconds = warmup_steps, []  # type: tuple[int, list[float]]
        self.tokens = self.padded = self.samples = self.tokens_seen = self.steps = 0
        self.train_seconds = 0.0

    def add(self, seconds: float, tokens: int, padded: int, samples: int, measured: bool) -> None:
        """Count one step; `tokens` are non-padding, `padded` all positions, `samples` examples."""
        self.steps += 1
        self.tokens_seen += tokens
        self.train_seconds += seconds
        if measured and self.steps > self.warmup_steps:
            self.seconds.append(seconds)
            self.tokens, self.padded, self.samples = (
                self.tokens + tokens,
                self.padded + padded,
                self.samples + samples,
            )

    @property
    def tokens_per_second(self) -> float | None:
        """Non-padding tokens a second of measured train steps; None before the first."""
        return self.tokens / sum(self.seconds) if self.seconds else None

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
            facts.update(
                tokens_per_second=round(self.tokens / total, 1),
                padded_tokens_per_second=round(self.padded / total, 1),
                samples_per_second=round(self.samples / total, 2),
                padding_share=round(1 - self.tokens / self.padded, 4),
                step_seconds={
                    f"p{share}": round(quantile(self.seconds, share), 5) for share in (50, 90, 99)
                },
            )
        return facts


def quantile(values: Iterable[float], percent: int) -> float:
    """The `percent` quantile, interpolated; of a single value, that value."""
    values = sorted(values)
    return (
        values[0]
        if len(values) == 1
        else statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
    )
