"""The trainer: fits a model one step after another through `step.py`, measured at every step. Knows no method."""

from contextlib import suppress

from tuneoff.distributed.stop import StopSignal
from tuneoff.training.best_weights import save_best_weights
from tuneoff.training.failures import (
    Diverged,
    Interrupted,
    NotANumber,
    Paused,
    check_finite,
    classify_error,
)
from tuneoff.training.run_state import explain_resume, save_run_state
from tuneoff.training.setup import Parts
from tuneoff.training.step_log import StepLog, StepNumbers
from tuneoff.training.step_under_way import (
    StepBatches,
    StepUnderWay,
    launch_step,
)


class Trainer:
    """Takes the steps of a run, and lets it be evaluated and saved between them."""

    def __init__(self, parts: Parts, first_step: int = 0):
        self.parts = parts
        self.step = first_step  # optimizer steps taken
        self.stopping = False  # a rank was asked to stop, which all learn when they read a step
        self.log = StepLog(parts)
        self.batches = StepBatches(parts)
        # A step is read while the next one runs; what it tells (a stop, the seconds spent) then counts a step later.
        self.runs_ahead = self.batches.overlap
        self._under_way: StepUnderWay | None = None  # launched, and not written down
        self._done_at = 0.0  # when the last step was read, by `time.perf_counter`

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
            except (Diverged, NotANumber, Paused):
                raise  # what was launched after it means nothing
            except Exception as error:
                # The others may wait for this rank: they must know before it waits for them in its turn.
                parts.ranks.agree_on_failure(classify_error(error), error)
                # The step before the one that failed, where the device has computed it; the failure is what counts.
                with suppress(Exception):
                    self.finish_step()
                raise

    def _take_steps(self) -> None:
        parts = self.parts
        while True:
            if is_evaluation_due(parts, self.step):
                # What it tells may be that a rank was asked to stop, or that a budget of seconds is used up.
                self.finish_step()
                self._stop_if_asked()
            ended = parts.schedule.ended(self.step)
            pauses = parts.schedule.pauses(self.step)
            ended = parts.evaluation.evaluate_if_due(self.step, ended, pauses)
            if is_best(parts, self.step):
                save_best_weights(parts, self.step)
            if ended:
                return
            if pauses:
                self.save()
                advice = explain_resume(parts, self.step, paused=True)
                raise Paused(f"paused after step {self.step}, as stop_after says; {advice}")
            # A step that is cut in two leaves weights that no checkpoint can go on from.
            with parts.stop.deferred():
                self.take_step(self.step)
                self.step += 1
                if is_save_due(parts, self.step) and not self.stopping:
                    self.save()
            self._stop_if_asked()

    def interrupt(self, where: str) -> Interrupted:
        """Save what was trained, all ranks together; return what the run ends with."""
        stopped = f"stopped by {self.parts.stop.name}"
        if self.step == 0:
            return Interrupted(f"{stopped} before the first step")
        self.save()
        return Interrupted(f"{stopped} {where}; {explain_resume(self.parts, self.step)}")

    def save(self) -> None:
        """Write a checkpoint; all ranks must call.

        Raises:
            Diverged: the last step's loss, which is read only now, is no number.
        """
        self.finish_step()
        save_run_state(self.parts, self.step)

    def _stop_if_asked(self) -> None:
        """Raise StopSignal in all ranks, where what they have read says that one of them was asked to stop."""
        if self.stopping:
            raise StopSignal(f"stopped by {self.parts.stop.name}")

    def take_step(self, step: int) -> None:
        """Take one optimizer step on the rows of `step` (from 0); write it down, or the one before where it runs on."""
        launched = launch_step(self.parts, self.batches, step)
        # The host does what it has to while the device is busy.
        self.batches.prepare(step + 1)
        if self.runs_ahead:
            self.finish_step()
            self._under_way = launched
        else:
            self._under_way = launched
            self.finish_step()
        self.parts.lr_scheduler.step()

    def finish_step(self) -> None:
        """Wait for the step that is under way, if one is, and write it down; all ranks must call.

        Raises:
            NotANumber: its loss or gradient is no number, and it was the first.
            Diverged: it was a later one.
        """
        if self._under_way is None:
            return
        parts = self.parts
        launched = self._under_way
        self._under_way = None
        report = launched.read(self._done_at, parts.stop.is_set())
        self._done_at = launched.done_at
        reports = parts.ranks.gather_with_peaks(report, parts.peaks)
        loss = sum(one.loss for one in reports) / parts.ranks.count
        self.stopping = any(one.stop_requested for one in reports)
        figures = self.log.count(launched, reports)
        number = launched.prepared.step + 1
        numbers = StepNumbers(number, loss, report.gradient_norm, launched.rates)
        self.log.write(numbers, figures, self.batches.collect_wait(), launched.breakdown)
        end_tracked_step(parts, number)
        check_finite(parts.experiment, number, loss, report.gradient_norm)


def is_evaluation_due(parts: Parts, step: int) -> bool:
    """Whether an evaluation stands before `step` (from 0)."""
    ends_here = parts.schedule.ended(step) or parts.schedule.pauses(step)
    return parts.evaluation.is_due(step, ends_here)


def end_tracked_step(parts: Parts, step: int) -> None:
    """Let trackers write what they were sent of `step`, unless an evaluation is to stand beside it."""
    if not is_evaluation_due(parts, step):
        parts.trackers.end_step(step)


def is_save_due(parts: Parts, step: int) -> bool:
    """Whether a checkpoint is to be written after `step` steps."""
    interval = parts.experiment.save_every
    return interval is not None and step % interval == 0


def is_best(parts: Parts, step: int) -> bool:
    """Whether the model after `step` steps is the best so far, of a run that keeps it."""
    keeps_best = parts.experiment.save_best is not None
    return keeps_best and parts.evaluation.best_step.step == step
