"""Unused settings: what another setting switches off is refused, so that no record names a value that did nothing."""

from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, NamedTuple

from tuneoff.config.choices import Scheduler, Task
from tuneoff.config.options import ConfigError


class Dependence(NamedTuple):
    """A setting, and what has to be set for it to do anything."""

    key: str
    is_used: Callable[[Any], bool]
    allowed: str


def predicts(experiment: Any) -> bool:
    """Whether a run begins with a prediction, or is one."""
    return experiment.task is Task.predict or experiment.skip_if_over_gib is not None


DEPENDENCES = (
    Dependence(
        "scheduler_cycles",
        lambda experiment: experiment.scheduler is Scheduler.cosine_with_restarts,
        "needs scheduler=cosine_with_restarts",
    ),
    Dependence(
        "scheduler_power",
        lambda experiment: experiment.scheduler is Scheduler.polynomial,
        "needs scheduler=polynomial",
    ),
    Dependence(
        "decay_ratio",
        lambda experiment: experiment.scheduler is Scheduler.wsd,
        "needs scheduler=wsd",
    ),
    Dependence(
        "min_lr_ratio",
        lambda experiment: experiment.scheduler is not Scheduler.constant,
        "needs another scheduler than constant, whose rate never falls",
    ),
    Dependence(
        "max_new_tokens", lambda experiment: experiment.exact_match is not None, "needs exact_match"
    ),
    Dependence(
        "exact_match_limit",
        lambda experiment: experiment.exact_match is not None,
        "needs exact_match",
    ),
    Dependence(
        "serving_prompt_tokens",
        lambda experiment: experiment.measure_serving,
        "needs measure_serving=true",
    ),
    Dependence(
        "serving_new_tokens",
        lambda experiment: experiment.measure_serving,
        "needs measure_serving=true",
    ),
    Dependence("gib", predicts, "needs task=predict, or skip_if_over_gib"),
)


def refuse_unused(experiment: Any, written: Collection[str]) -> None:
    """Refuse a setting that was given, although another one switches it off.

    Args:
        experiment: all settings, their own ranges checked.
        written: the keys on the command line, which are refused at their defaults too.

    Raises:
        ConfigError: naming the setting, and what it needs.
    """
    defaults = {item.name: item.default for item in fields(experiment)}
    for dependence in DEPENDENCES:
        value = getattr(experiment, dependence.key)
        is_given = dependence.key in written or value != defaults[dependence.key]
        if is_given and not dependence.is_used(experiment):
            raise ConfigError(dependence.key, value, dependence.allowed)
    # A method's YAML may have a share as its default, which steps on the command line take the place of.
    if experiment.warmup_steps is not None and "warmup_ratio" in written:
        allowed = "must be left out where warmup_steps is given, which takes its place"
        raise ConfigError("warmup_ratio", experiment.warmup_ratio, allowed)
