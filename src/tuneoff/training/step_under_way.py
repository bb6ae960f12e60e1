"""A step under way: what the host keeps of a step while the device computes it, and the batches of the next one.

A device that is told of the next step before the last one's loss is read has no reason to wait for the host.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from tuneoff import data
from tuneoff.measure.flop_meter import FlopCounter
from tuneoff.measure.memory_breakdown import MemoryBreakdown
from tuneoff.training.setup import Parts
from tuneoff.training.step import StepResult, train_step


class PreparedStep(NamedTuple):
    """The rows of a step, over all ranks, and this rank's micro-batches of them, on its device."""

    step: int
    rows: Sequence[Any]
    batches: list[data.Batch]

    @property
    def labels(self) -> int:
        """Tokens of the step that are trained."""
        return sum(row.labels for row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens of the step, without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def samples(self) -> int:
        """Examples of the step, of which a packed row holds several."""
        return sum(len(data.example_starts(row)) for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        """Positions of this rank's batches, padding included."""
        return sum(batch.input_ids.numel() for batch in self.batches)


class StepBatches:
    """Makes the batches of a step, the next one's while the device is still at the last."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self._next: PreparedStep | None = None
        self.overlap = computes_beside_host(parts.ranks.device)
        self._waited_seconds = 0.0  # of the device, for batches

    def take(self, step: int) -> PreparedStep:
        """Return the batches of `step` (from 0), which may be there already."""
        started = time.perf_counter()
        prepared = self._next
        self._next = None
        if prepared is None or prepared.step != step:
            prepared = self._make(step)
        self._waited_seconds += time.perf_counter() - started
        return prepared

    def prepare(self, step: int) -> None:
        """Make the batches of `step` beforehand, unless the budget ends before it."""
        if self.parts.schedule.ended(step):
            return
        started = time.perf_counter()
        self._next = self._make(step)
        if not self.overlap:
            self._waited_seconds += time.perf_counter() - started

    def collect_wait(self) -> float:
        """Seconds since the last call in which no step was computed, because batches were being made."""
        seconds = self._waited_seconds
        self._waited_seconds = 0.0
        return seconds

    def _make(self, step: int) -> PreparedStep:
        parts = self.parts
        rows = parts.order.step_rows(step)
        size = parts.experiment.batch_size
        starts = range(0, len(rows), size)
        micro_rows = [rows[start : start + size] for start in starts]
        batches = []
        for own_rows in data.split_between_ranks(micro_rows, parts.ranks.index, parts.ranks.count):
            batch = data.collate(own_rows, parts.tokenizer.pad_token_id, parts.layers.lengths)
            batches.append(batch.to(parts.ranks.device))
        return PreparedStep(step, rows, batches)


class Reading:
    """Numbers of a step on their way to the host: reading them waits for that step, and for none after it."""

    def __init__(self, result: StepResult):
        self.result = result
        self._event: Any = None
        if result.loss.device.type == "cuda":
            # A plain `.item()` would wait for all that was launched in the meantime.
            self.result = StepResult(*(copy_to_host(number) for number in result))
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> tuple[float, float]:
        """Return the loss, and the norm of the gradient before it was clipped."""
        if self._event is not None:
            self._event.synchronize()
        return self.result.loss.item(), self.result.gradient_norm.item()


def copy_to_host(number: torch.Tensor) -> torch.Tensor:
    """A tensor in pinned memory that has the number once the device has come so far; an engine's is on the host."""
    if number.device.type == "cpu":
        return number
    on_host = torch.empty_like(number, device="cpu", pin_memory=True)
    return on_host.copy_(number, non_blocking=True)


class StepReport(NamedTuple):
    """What a rank tells the others of a step."""

    loss: float
    gradient_norm: float  # of all ranks, before it was clipped
    padded_tokens: int
    stop_requested: bool
    seconds: float  # without those of compiling
    compile_seconds: float


@dataclass
class StepUnderWay:
    """A step that was launched, and is not written down yet.

    Attributes:
        rates: the learning rate of each parameter group, as it was applied.
        started: when the host began with it, by `time.perf_counter`.
        breakdown: of its memory, where it is counted.
        flop_counter: of its operations, where they are counted.
        compile_seconds: in which layers were compiled.
        done_at: when it was read.
    """

    prepared: PreparedStep
    rates: list[float]
    started: float
    breakdown: MemoryBreakdown | None
    flop_counter: FlopCounter | None
    compile_seconds: float
    reading: Reading
    done_at: float = 0.0

    def read(self, last_done_at: float, stop_requested: bool) -> StepReport:
        """Wait for the step; return what this rank tells of it.

        Args:
            last_done_at: when the step before was read. One that was launched while that one ran has begun then.
            stop_requested: whether this rank was asked to stop.
        """
        loss, gradient_norm = self.reading.read()
        self.done_at = time.perf_counter()
        return StepReport(
            loss=loss,
            gradient_norm=gradient_norm,
            padded_tokens=self.prepared.padded_tokens,
            stop_requested=stop_requested,
            seconds=self.done_at - max(self.started, last_done_at) - self.compile_seconds,
            compile_seconds=self.compile_seconds,
        )


def launch_step(parts: Parts, batches: StepBatches, step: int) -> StepUnderWay:
    """Tell the device what to compute in `step` (from 0); on a CPU it is then done."""
    started = time.perf_counter()
    prepared = batches.take(step)
    rates = [group["lr"] for group in parts.optimizer.param_groups]
    parts.model.train()
    breakdown = _start_breakdown(parts, step)
    flop_counter = None if parts.sharding.splits else parts.flop_meter.start(step)
    compiled_before = parts.layers.seconds
    with parts.layers.active(), breakdown or nullcontext(), flop_counter or nullcontext():
        result = train_step(
            parts.wrapped_model,
            parts.stepper,
            prepared.batches,
            prepared.labels / parts.ranks.count,
            parts.experiment.max_grad_norm,
            parts.engine,
        )
    whole_norm = parts.sharding.gather_norm(result.gradient_norm)
    reading = Reading(result._replace(gradient_norm=whole_norm))
    return StepUnderWay(
        prepared,
        rates,
        started,
        breakdown,
        flop_counter,
        parts.layers.seconds - compiled_before,
        reading,
    )


def _start_breakdown(parts: Parts, step: int) -> MemoryBreakdown | None:
    """What breaks down the memory of a counted step; of a split model there would be a part alone."""
    if step not in parts.counted_steps or parts.sharding.splits:
        return None
    return MemoryBreakdown(parts.model, parts.optimizer)


def computes_beside_host(device: torch.device) -> bool:
    """Whether the host goes on while the device computes."""
    return device.type == "cuda"
