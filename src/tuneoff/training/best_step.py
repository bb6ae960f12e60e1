"""The best step: which evaluation of a run was the best so far, and how long ago that was."""

import math
from typing import Any

from tuneoff.config import ConfigError, Experiment
from tuneoff.config.keeping import BEST, FORGETTING_AWARE


def check_judged_rows(experiment: Experiment, has_rows: bool) -> None:
    """Refuse to keep a best step, or to stop early, where there are no validation rows.

    Raises:
        ConfigError: naming the setting.
    """
    for key in ("save_best", "patience"):
        value = getattr(experiment, key)
        if value is not None and not has_rows:
            raise ConfigError(
                key, value, f"needs validation rows, and {experiment.data.name} has none"
            )


class BestStep:
    """The step with the lowest score; ties go to the earlier.

    The score is the validation loss. Under save_best=forgetting_aware it is that plus what the loss on the second set
    has risen since the start, both in nats per token: a step that learns less than it forgets is none to keep.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.step: int | None = None
        self.losses: dict[
            str, float
        ] = {}  # at that step: validation, and second_set where there is one
        self.score = math.inf
        self.evaluations_since = 0
        self.stopped_at: int | None = None  # the step at which patience ended the run

    def note(
        self, step: int, loss: float | None, second: float | None, before: float | None
    ) -> None:
        """Take an evaluation into account.

        Args:
            step: after so many optimizer steps.
            loss: on the validation rows; None where there are none.
            second: on the second set, where there is one.
            before: the same before the first step.
        """
        if loss is None:
            return
        score = loss
        if (
            self.experiment.save_best == FORGETTING_AWARE
            and second is not None
            and before is not None
        ):
            score += max(0.0, second - before)
        if score < self.score:
            self.step = step
            self.score = score
            self.losses = {"validation": loss}
            if second is not None:
                self.losses["second_set"] = second
            self.evaluations_since = 0
            return
        self.evaluations_since += 1
        patience = self.experiment.patience
        if patience is not None and self.evaluations_since >= patience:
            self.stopped_at = step

    @property
    def used(self) -> bool:
        """Whether the run is judged by the best step, not the last."""
        return self.experiment.which == BEST and self.step is not None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "losses": self.losses,
            "score": self.score if self.step is not None else None,
            "evaluations_since": self.evaluations_since,
            "stopped_at": self.stopped_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` gave."""
        self.step = state["step"]
        self.losses = state["losses"]
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
