"""Step log: what a step came to, in the record, in the trackers and on the progress bar."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from tuneoff.training.setup import Parts
from tuneoff.training.step_under_way import PreparedStep, StepReport

# Segments of a parameter's name that tell nothing of its group.
UNTELLING = {"base_model", "model", "layers", "weight", "default", "transformer", "h"}


class StepLog:
    """Counts each step of a run, and writes it down."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self._group_names = name_groups(parts.optimizer, parts.model)
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

    def count(self, prepared: PreparedStep, reports: list[StepReport]) -> None:
        """Count a step's tokens and seconds."""
        parts = self.parts
        # The others may have waited for the first one, which writes: its clock alone measures a step.
        seconds = reports[0].seconds
        parts.schedule.seconds += seconds
        parts.throughput.add(
            seconds,
            tokens=prepared.tokens,
            padded=sum(report.padded_tokens for report in reports),
            samples=prepared.samples,
            measured=prepared.step not in parts.counted_steps,
        )

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
            **self._name_rates(rates),
        }
        self.parts.trackers.log(values, step)
        self._bar.update()
        if self.parts.experiment.progress:
            speed = throughput.tokens_per_second or 0
            memory = self.parts.peaks.current_gib()
            self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:.0f} tokens/s, {memory:.2f} GiB")

    def _name_rates(self, rates: list[float]) -> dict:
        """What trackers get of the rates: one where all groups have the same, else each under its group's name."""
        if len(set(rates)) == 1:
            return {"lr": rates[0]}
        return {"lr": dict(zip(self._group_names, rates, strict=True))}


def name_groups(optimizer: Any, model: Any) -> list[str]:
    """A name for each parameter group, of the words that the names of all of its parameters share.

    `lora_A` and `lora_B` under LoRA+; where groups would be called alike, or nothing is shared, the number tells them.
    """
    segments = {}
    for name, parameter in model.named_parameters():
        segments[parameter] = set(name.split("."))
    names: list[str] = []
    for number, group in enumerate(optimizer.param_groups):
        members = [segments[one] for one in group["params"] if one in segments]
        common = set.intersection(*members) - UNTELLING if members else set()
        name = "_".join(sorted(common)) or "group"
        names.append(name if name not in (*names, "group") else f"{name}_{number}")
    return names
