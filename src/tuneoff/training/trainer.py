"""The trainer: fits a model one step after another through `step.py`, measured at every step. Knows no method."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from tuneoff import data
from tuneoff.distributed.stop import StopSignal
from tuneoff.measure.memory_breakdown import MemoryBreakdown
from tuneoff.training.failures import Interrupted, check_finite
from tuneoff.training.run_state import explain_resume, save_run_state
from tuneoff.training.setup import Parts
from tuneoff.training.step import train_step
from tuneoff.training.step_log import StepLog


class StepReport(NamedTuple):
    """What a rank tells the others of a step."""

    loss: float
    padded_tokens: int
    stop_requested: bool
    seconds: float


class Trainer:
    """Takes the steps of a run, and lets it be evaluated and saved between them."""

    def __init__(self, parts: Parts, first_step: int = 0):
        self.parts = parts
        self.step = first_step  # optimizer steps taken
        self.stopping = False  # a rank was asked to stop, which all learn at a step's end
        self.log = StepLog(parts)

    def fit(self) -> None:
        """Train from `self.step` to the end of the budget; evaluate before, at `eval_every`, and at the end.

        Raises:
            Diverged: the loss or the gradient is no longer a number.
            Interrupted: one of the ranks was asked to stop; a checkpoint is saved.
        """
        parts = self.parts
        with self.log.progress_bar(self.step), parts.peaks.phase("train"):
            try:
                self._take_steps()
            except StopSignal:
                raise self.interrupt(f"after step {self.step}") from None

    def _take_steps(self) -> None:
        parts = self.parts
        while True:
            ended = parts.schedule.ended(self.step)
            parts.evaluation.evaluate_if_due(self.step, ended)
            if ended:
                return
            # A step that is cut in two leaves weights that no checkpoint can go on from.
            with parts.stop.deferred():
                self.take_step(self.step)
                self.step += 1
                if self._save_is_due() and not self.stopping:
                    self.save()
            if self.stopping:
                raise StopSignal(f"stopped by {parts.stop.name}")

    def interrupt(self, where: str) -> Interrupted:
        """Save what was trained, all ranks together; return what the run ends with."""
        stopped = f"stopped by {self.parts.stop.name}"
        if self.step == 0:
            return Interrupted(f"{stopped} before the first step")
        self.save()
        return Interrupted(f"{stopped} {where}; {explain_resume(self.parts, self.step)}")

    def save(self) -> None:
        """Write a checkpoint; all ranks must call."""
        save_run_state(self.parts, self.step)

    def _save_is_due(self) -> bool:
        interval = self.parts.experiment.save_every
        return interval is not None and self.step % interval == 0

    def take_step(self, step: int) -> None:
        """Take one optimizer step on the rows of `step` (from 0), and write it down."""
        parts = self.parts
        rows = parts.order.step_rows(step)
        started = time.perf_counter()
        batches = self._micro_batches(rows)
        rates = [group["lr"] for group in parts.optimizer.param_groups]
        parts.model.train()
        breakdown = self._breakdown(step)
        with breakdown or nullcontext():
            result = train_step(
                parts.wrapped_model,
                parts.stepper,
                batches,
                sum(row.labels for row in rows) / parts.ranks.count,
                parts.experiment.max_grad_norm,
                parts.engine,
            )
        # Reading the loss waits for the device: the step is done, and the ranks meet.
        own_loss = result.loss.item()
        norm = parts.sharding.gather_tensors(result.gradient_norm).item()
        report = StepReport(
            loss=own_loss,
            padded_tokens=sum(batch.input_ids.numel() for batch in batches),
            stop_requested=parts.stop.is_set(),
            seconds=time.perf_counter() - started,
        )
        reports = parts.ranks.gather_with_peaks(report, parts.peaks)
        loss = sum(one.loss for one in reports) / parts.ranks.count
        self.stopping = any(one.stop_requested for one in reports)
        self._count(rows, reports, step)
        if breakdown is not None:
            parts.breakdown.add(breakdown.peak(), step + 1)
        self.log.write(step + 1, loss, norm, rates, reports[0].seconds)
        check_finite(parts.experiment, step + 1, loss, norm)

    def _breakdown(self, step: int) -> MemoryBreakdown | None:
        """What breaks down the memory of a counted step; of a split model there would be a part alone."""
        parts = self.parts
        if step not in parts.counted_steps or parts.sharding.active:
            return None
        return MemoryBreakdown(parts.model, parts.optimizer)

    def _count(self, rows: Sequence[Any], reports: list[StepReport], step: int) -> None:
        """Move the schedule on, and count the step's tokens and seconds."""
        parts = self.parts
        # The others may have waited for the first one, which writes: its clock alone measures a step.
        seconds = reports[0].seconds
        parts.schedule.seconds += seconds
        parts.lr_scheduler.step()
        parts.throughput.add(
            seconds,
            tokens=sum(len(row.ids) for row in rows),
            padded=sum(report.padded_tokens for report in reports),
            samples=sum(len(data.example_starts(row)) for row in rows),
            measured=step not in parts.counted_steps,
        )

    def _micro_batches(self, rows: Sequence[Any]) -> list[data.Batch]:
        """This rank's micro-batches of a step, on its device."""
        parts = self.parts
        size = parts.experiment.batch_size
        starts = range(0, len(rows), size)
        micro_rows = [rows[start : start + size] for start in starts]
        batches = []
        for own_rows in data.split_between_ranks(micro_rows, parts.ranks.index, parts.ranks.count):
            batch = data.collate(own_rows, parts.tokenizer.pad_token_id)
            batches.append(batch.to(parts.ranks.device))
        return batches
