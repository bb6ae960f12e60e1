"""Budget and learning rate as functions of progress in [0, 1], so that every kind of budget has every schedule."""

import math

from tuneoff.config import Experiment, Scheduler


class Schedule:
    """How far a run has come, and the factor on every group's rate there."""

    def __init__(self, experiment: Experiment, total_steps: float):
        """`total_steps` is infinite under `max_seconds`, whose progress is `seconds` spent in train steps."""
        self.experiment = experiment
        self.total_steps = total_steps
        self.seconds = 0.0

    def state(self) -> dict:
        """What a checkpoint keeps: the seconds spent."""
        return {"seconds": self.seconds}

    def restore(self, state: dict) -> None:
        """Go on from what `state()` gave."""
        self.seconds = state["seconds"]

    def progress(self, step: int) -> float:
        """Share of the budget used at the middle of `step`: so neither end of a schedule is wasted on a rate of 0."""
        if self.experiment.max_seconds is not None:
            return min(1.0, self.seconds / self.experiment.max_seconds)
        return min(1.0, (step + 0.5) / self.total_steps)

    def ended(self, step: int) -> bool:
        """Whether the budget is spent before `step` (counted from 0)."""
        return step >= self.total_steps or self.progress(step) >= 1

    def rate_factor(self, step: int) -> float:
        """Linear warm-up over `warmup_ratio`, then cosine to 0, linear to 0, or constant."""
        done, warmup = self.progress(step), self.experiment.warmup_ratio
        if done < warmup:
            return done / warmup
        rest = (done - warmup) / (1 - warmup)
        if self.experiment.scheduler is Scheduler.cosine:
            return 0.5 * (1 + math.cos(math.pi * rest))
        return 1 - rest if self.experiment.scheduler is Scheduler.linear else 1.0
