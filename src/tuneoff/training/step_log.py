"""Step log: what a step came to, in the record, in the trackers and on the progress bar."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tqdm import tqdm

from tuneoff.measure.memory_breakdown import MemoryBreakdown
from tuneoff.measure.memory_peaks import to_gib
from tuneoff.training.setup import Parts
from tuneoff.training.step_under_way import StepReport, StepUnderWay

# Segments of a parameter's name that tell nothing of its group.
UNTELLING = {"base_model", "model", "layers", "weight", "default", "transformer", "h"}


class StepNumbers(NamedTuple):
    """What a step came to.

    Attributes:
        step: its number, from 1.
        norm: of the gradient, before clipping.
        rates: the learning rate of each parameter group, as it was applied.
    """

    step: int
    loss: float
    norm: float
    rates: list[float]


class StepFigures(NamedTuple):
    """How fast a step was: its tokens without padding, over all ranks, and its share of the device's matrix rate."""

    tokens: int
    seconds: float
    mfu: float | None


class StepLog:
    """Counts each step of a run, and writes it down."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self._group_names = name_groups(parts.optimizer, parts.model)
        parts.trackers.tokens_seen = parts.throughput.tokens_seen  # those before a resume
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

    def count(self, launched: StepUnderWay, reports: list[StepReport]) -> StepFigures:
        """Count a step's tokens, seconds and operations; returns what a line of the record has of them."""
        parts = self.parts
        prepared = launched.prepared
        # The others may have waited for the first one, which writes: its clock alone measures a step.
        seconds = reports[0].seconds
        parts.schedule.seconds += seconds
        is_counted = prepared.step in parts.counted_steps or launched.flop_counter is not None
        # The others wait for a rank that compiles.
        compile_seconds = max(report.compile_seconds for report in reports)
        measured = not is_counted and not compile_seconds
        parts.throughput.add(
            seconds,
            tokens=prepared.tokens,
            padded=sum(report.padded_tokens for report in reports),
            samples=prepared.samples,
            measured=measured,
        )
        if launched.flop_counter is not None:
            flops = launched.flop_counter.flops
            parts.flop_meter.add_count(prepared.step, flops, prepared.padded_tokens)
        is_warm = parts.throughput.steps > parts.throughput.warmup_steps
        mfu = parts.flop_meter.add_step(prepared.padded_tokens, seconds, measured and is_warm)
        return StepFigures(prepared.tokens, seconds, mfu)

    def write(
        self,
        result: StepNumbers,
        figures: StepFigures,
        wait_seconds: float,
        breakdown: MemoryBreakdown | None,
    ) -> None:
        """Write down a step: `wait_seconds` made batches, and `breakdown` is its memory, where that is counted."""
        parts = self.parts
        memory = parts.peaks.snapshot()
        tokens_per_second = round(figures.tokens / figures.seconds, 1)
        line = {
            "step": result.step,
            "loss": result.loss,
            "lr": result.rates,
            "gradient_norm": result.norm,
            "tokens": parts.throughput.tokens_seen,
            "step_seconds": round(figures.seconds, 6),
            "data_wait_seconds": round(wait_seconds, 6),
            "tokens_per_second": tokens_per_second,
            "mfu": figures.mfu if figures.mfu is None else round(figures.mfu, 5),
            **memory,
        }
        parts.recorder.log(line)
        # By the names of transformers' own trainer, where it has one.
        values = {
            "loss": result.loss,
            "grad_norm": result.norm,
            "epoch": self._count_epochs(result.step),
            "tokens_per_second": tokens_per_second,
            "mean_tokens_per_second": parts.throughput.tokens_per_second,
            "step_seconds": figures.seconds,
            "data_wait_seconds": wait_seconds,
            "mfu": figures.mfu,
            **self._name_rates(result.rates),
        }
        parts.trackers.tokens_seen = parts.throughput.tokens_seen
        parts.trackers.log({"train": values, "memory": memory}, result.step)
        self._show_progress(result.loss, memory)
        if breakdown is not None:
            self._write_breakdown(breakdown, result.step)

    def _write_breakdown(self, breakdown: MemoryBreakdown, step: int) -> None:
        """Show what the memory of a step was made of."""
        peak = breakdown.peak()
        self.parts.breakdown.add(peak, step)
        gib = {part: to_gib(size) for part, size in peak.items()}
        self.parts.trackers.log({"memory": {"breakdown_gib": gib}}, step)
        rows = [[part.replace("_", " "), size] for part, size in gib.items()]
        self.parts.trackers.log_table("memory/breakdown", ["part", "GiB"], rows, step)

    def _count_epochs(self, step: int) -> float:
        """How often the training rows were seen after so many steps."""
        order = self.parts.order
        seen = min(step * order.rows_per_step, order.total_rows)
        return round(seen / len(order.rows), 4)

    def _show_progress(self, loss: float, memory: dict[str, float]) -> None:
        """Move the progress bar by a step."""
        self._bar.update()
        if self.parts.experiment.progress:
            speed = self.parts.throughput.tokens_per_second or 0
            in_use = memory.get("allocated_gib", memory["resident_gib"])
            self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:.0f} tokens/s, {in_use:.2f} GiB")

    def _name_rates(self, rates: list[float]) -> dict:
        """What trackers get of the rates: one where all groups have the same, else each under its group's name."""
        if len(set(rates)) == 1:
            return {"learning_rate": rates[0]}
        return {"learning_rate": dict(zip(self._group_names, rates, strict=True))}


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
