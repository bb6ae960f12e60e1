"""Budget and learning rate as functions of progress in [0, 1], so that every kind of budget has every schedule."""

import math

from transformers import optimization

from tuneoff.config import Experiment, Scheduler

# transformers counts in steps, and takes no fewer than one of anything: a budget has so many for it.
UNITS = 1_000_000.0
# Steps after which `inverse_sqrt` without warm-up has fallen to 1/√2 of the rate, as transformers has it.
INVERSE_SQRT_STEPS = 10_000.0
# Of a step: 0.07 of 100 steps are 7, though 0.07 · 100 is a little more in binary.
ROUNDING = 1e-6


class Schedule:
    """How far a run has come, and the factor on every group's rate there."""

    def __init__(self, experiment: Experiment, total_steps: float):
        """`total_steps` is infinite under `max_seconds`, whose progress is `seconds` spent in train steps."""
        self.experiment = experiment
        self.total_steps = total_steps
        self.seconds = 0.0
        self.warmup = experiment.warmup_ratio  # a share of the budget
        if experiment.warmup_steps is not None:
            self.warmup = experiment.warmup_steps / total_steps

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

    def pauses(self, step: int) -> bool:
        """Whether the run pauses before `step`, since `stop_after` of its budget is done."""
        share = self.experiment.stop_after
        if share is None or step == 0 or self.ended(step):
            return False
        if self.experiment.max_seconds is not None:
            return self.seconds >= share * self.experiment.max_seconds
        return step >= share * self.total_steps - ROUNDING

    def rate_factor(self, step: int) -> float:
        """Linear warm-up from 0, then what `scheduler` says, down to `min_lr_ratio`."""
        done = self.progress(step)
        if done < self.warmup:
            return done / self.warmup
        lowest = self.experiment.min_lr_ratio
        if self.experiment.scheduler is Scheduler.inverse_sqrt:
            return max(lowest, self._inverse_sqrt(done, step))
        rest = 1.0
        if self.warmup < 1:
            rest = (done - self.warmup) / (1 - self.warmup)
        return lowest + (1 - lowest) * self._fall(rest)

    def _fall(self, rest: float) -> float:
        """The factor from 1 down to 0 at `rest`, the share that is done of what follows the warm-up."""
        experiment = self.experiment
        if experiment.scheduler is Scheduler.cosine:
            return 0.5 * (1 + math.cos(math.pi * rest))
        if experiment.scheduler is Scheduler.linear:
            return 1 - rest
        if experiment.scheduler is Scheduler.cosine_with_restarts:
            return optimization._get_cosine_with_hard_restarts_schedule_with_warmup_lr_lambda(
                rest,  # type: ignore[arg-type]  # steps need not be whole
                num_warmup_steps=0,
                num_training_steps=1,
                num_cycles=experiment.scheduler_cycles,
            )
        if experiment.scheduler is Scheduler.polynomial:
            return optimization._get_polynomial_decay_schedule_with_warmup_lr_lambda(
                rest,  # type: ignore[arg-type]
                num_warmup_steps=0,
                num_training_steps=1,
                lr_end=0.0,
                power=experiment.scheduler_power,
                lr_init=1,
            )
        if experiment.scheduler is Scheduler.wsd:
            return self._warm_up_stay_decay(rest)
        return 1.0

    def _warm_up_stay_decay(self, rest: float) -> float:
        """The whole rate, until the last `decay_ratio` of the budget falls as a cosine does."""
        share_left = 1 - self.warmup
        falling = 1.0
        if share_left > 0:
            falling = min(1.0, self.experiment.decay_ratio / share_left)
        return optimization._get_wsd_scheduler_lambda(
            rest * UNITS,  # type: ignore[arg-type]
            num_warmup_steps=0,
            num_stable_steps=(1 - falling) * UNITS,  # type: ignore[arg-type]
            num_decay_steps=falling * UNITS,  # type: ignore[arg-type]
            warmup_type="linear",
            decay_type="cosine",
            min_lr_ratio=0.0,
            num_cycles=0.5,
        )

    def _inverse_sqrt(self, done: float, step: int) -> float:
        """1 over the root of how often the warm-up would fit into what is done; without one, steps by themselves."""
        position = step + 0.5
        timescale = INVERSE_SQRT_STEPS
        if self.warmup:
            position = done * UNITS
            timescale = self.warmup * UNITS
        return optimization._get_inverse_sqrt_schedule_lr_lambda(
            position,  # type: ignore[arg-type]
            num_warmup_steps=timescale if self.warmup else 0,  # type: ignore[arg-type]
            timescale=timescale,  # type: ignore[arg-type]
        )
