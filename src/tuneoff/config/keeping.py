"""Keeping: which step of a run is kept and judged, and whether a run stops before its budget ends."""

from dataclasses import dataclass
from typing import Any

from tuneoff.config.options import ConfigError, Role, one_of, option
from tuneoff.config.sharding import is_split

VALIDATION = "validation"
FORGETTING_AWARE = "forgetting_aware"
LAST = "last"
BEST = "best"


@dataclass
class KeepingSettings:
    """Keeping: which step is tested, answers and is saved, and whether a run stops early."""

    save_best: str | None = one_of(None, VALIDATION, FORGETTING_AWARE, role=Role.JUDGING)
    """Keep the step with the lowest validation loss; forgetting_aware adds how far forgetting.data's has risen."""
    which: str = one_of(LAST, LAST, BEST, role=Role.JUDGING)
    """The step whose weights are tested, answer, and are saved: the last one, or the one that save_best keeps."""
    patience: int | None = option(
        None, "must be at least 1", lambda value: value >= 1, column="Patience"
    )
    """Stop after so many evaluations in a row that are no better than the best before; this looks, as tuning does."""


def check_keeping(experiment: Any) -> None:
    """Refuse to keep, or to stop by, what is never evaluated.

    Raises:
        ConfigError: naming the setting.
    """
    for key in ("save_best", "patience"):
        value = getattr(experiment, key)
        if value is None:
            continue
        if experiment.eval_every is None:
            raise ConfigError(key, value, "needs eval_every, which says when a step is judged")
        if key == "save_best" and is_split(experiment.sharding):
            raise ConfigError(key, value, f"was never tried under {experiment.sharding}")
    if experiment.save_best == FORGETTING_AWARE and experiment.forgetting.data is None:
        raise ConfigError("save_best", FORGETTING_AWARE, "needs forgetting.data")
    if experiment.which == BEST and experiment.save_best is None:
        raise ConfigError("which", BEST, f"needs save_best={VALIDATION} or {FORGETTING_AWARE}")
