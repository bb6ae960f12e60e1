"""The best step: which evaluation of a run was the best so far, and how long ago that was."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from tuneoff.config import ConfigError, Experiment
from tuneoff.config.keeping import BEST, FORGETTING_AWARE


class Losses(NamedTuple):
    """The loss per label token of rows, and of several sets that of each."""

    mean: float
    by_set: dict[str, float]


def check_judged_rows(experiment: Experiment, has_rows: bool) -> None:
    """Refuse to keep a best step, to stop early, or to evaluate on the way, where nothing would be evaluated.

    Args:
        experiment: the settings.
        has_rows: whether the data has validation rows.

    Raises:
        ConfigError: naming the setting.
    """
    if has_rows:
        return
    needing = ["save_best", "patience"]
    if experiment.forgetting.data is None:
        needing.append("eval_every")
    for key in needing:
        value = getattr(experiment, key)
        if value is not None:
            allowed = f"needs validation rows, and {experiment.data.name} has none"
            raise ConfigError(key, value, allowed)


class BestStep:
    """The step with the lowest score; ties go to the earlier.

    The score is the validation loss. Under save_best=forgetting_aware it is that plus what the loss on the second set
    has risen since the start, both in nats per token: a step that learns less than it forgets is none to keep.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.step: int | None = None
        # At that step: validation, and second_set where there is one.
        self.losses: dict[str, float] = {}
        self.by_set: dict[str, dict[str, float]] = {}  # the same of each of several sets
        self.score = math.inf
        self.evaluations_since = 0
        self.stopped_at: int | None = None  # the step at which patience ended the run

    def note(
        self, step: int, loss: float | None, second: float | None, before: float | None
    ) -> bool:
        """Take an evaluation into account; return whether it is the best so far.

        Args:
            step: after so many optimizer steps.
            loss: on the validation rows; None where there are none.
            second: on the second set, where there is one.
            before: the same before the first step.
        """
        if loss is None:
            return False
        score = loss
        counts_forgetting = self.experiment.save_best == FORGETTING_AWARE
        if counts_forgetting and second is not None and before is not None:
            score += max(0.0, second - before)
        if score < self.score:
            self.step = step
            self.score = score
            self.losses = {"validation": loss}
            if second is not None:
                self.losses["second_set"] = second
            self.evaluations_since = 0
            return True
        self.evaluations_since += 1
        patience = self.experiment.patience
        if patience is not None and self.evaluations_since >= patience:
            self.stopped_at = step
        return False

    def keep_by_set(self, validation: Losses | None, second: Losses | None) -> None:
        """Keep what the losses of the best step are on each of several sets."""
        self.by_set = {}
        for stage, losses in (("validation", validation), ("second_set", second)):
            if losses is not None:
                self.by_set[stage] = losses.by_set

    def list_losses(self) -> Iterator[tuple[str, Losses]]:
        """Yield the losses of the best step: on the validation rows, and on the second set where there is one."""
        for stage, loss in self.losses.items():
            yield stage, Losses(loss, self.by_set.get(stage, {}))

    @property
    def used(self) -> bool:
        """Whether the run is judged by the best step, not the last."""
        return self.experiment.which == BEST and self.step is not None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "losses": self.losses,
            "by_set": self.by_set,
            "score": self.score if self.step is not None else None,
            "evaluations_since": self.evaluations_since,
            "stopped_at": self.stopped_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` gave."""
        self.step = state["step"]
        self.losses = state["losses"]
        self.by_set = state["by_set"]
        self.score = math.inf if state["score"] is None else state["score"]
        self.evaluations_since = state["evaluations_since"]
        self.stopped_at = state["stopped_at"]

    def facts(self) -> dict[str, Any]:
        """The record's `kept`: empty where the run keeps no best step and does not stop early."""
        experiment = self.experiment
        if experiment.save_best is None and experiment.patience is None:
            return {}
        return {
            "by": experiment.save_best or "validation",
            "which": experiment.which,
            "best_step": self.step,
            "best_losses": self.losses,
            "stopped_early_at": self.stopped_at,
        }
