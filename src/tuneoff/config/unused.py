"""Unused settings: what another setting switches off is refused, so that no record names a value that did nothing."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from typing import Any, NamedTuple

from tuneoff.config.choices import Scheduler, Task
from tuneoff.config.data import SHARES, SingleSet
from tuneoff.config.data_sets import CONCATENATE, Data
from tuneoff.config.model import BRINGS_SHAPE
from tuneoff.config.options import ABSENT, ConfigError


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
        "exact_match_batch_size",
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
    Dependence("hub_name", lambda experiment: experiment.save_model, "needs save_model=true"),
    Dependence("gib", predicts, "needs task=predict, or skip_if_over_gib"),
)

# What of a set does nothing where another setting of it has a value.
REPLACED_BY = {"validation_share": "validation_rows", "default_epochs": "default_steps"}


def refuse_switched_off(
    dependences: Iterable[Dependence],
    settings: Any,
    written: Collection[str],
    prefix: str = "",
) -> None:
    """Refuse a setting that was given, although what it depends on leaves it unused.

    Args:
        settings: an object of a dataclass, which has the keys of the dependences.
        written: the keys on the command line, which are refused at their defaults too, but not at null.
        prefix: what stands before the keys of `settings` on the command line.

    Raises:
        ConfigError: naming the setting, and what it needs.
    """
    defaults = {item.name: item.default for item in fields(settings)}
    for dependence in dependences:
        key = f"{prefix}{dependence.key}"
        value = getattr(settings, dependence.key)
        is_written = key in written and value is not None
        is_given = is_written or value != defaults[dependence.key]
        if is_given and not dependence.is_used(settings):
            raise ConfigError(key, value, dependence.allowed)


def refuse_unused(experiment: Any, written: Collection[str]) -> None:
    """Refuse a setting that was given, although another one switches it off.

    Args:
        experiment: all settings, their own ranges checked.
        written: the keys on the command line, which are refused at their defaults too; null gives nothing, and may
            be there to take back what a YAML has.

    Raises:
        ConfigError: naming the setting, and what it needs.
    """
    refuse_switched_off(DEPENDENCES, experiment, written)
    if experiment.rerun and experiment.resume != "never":
        allowed = f"begins the run anew, and resume={experiment.resume} goes on with it; leave one of the two out"
        raise ConfigError("rerun", True, allowed)
    # A model's YAML may have a shape beside a path that was written, and then says nothing.
    shape = [key for key in written if key.startswith("model.config")]
    if shape and experiment.model.path is not None and experiment.model.config is not None:
        raise ConfigError(shape[0], ABSENT, BRINGS_SHAPE)
    # A method's YAML may have a share as its default, which steps on the command line take the place of.
    if experiment.warmup_steps is not None and "warmup_ratio" in written:
        allowed = "must be left out where warmup_steps is given, which takes its place"
        raise ConfigError("warmup_ratio", experiment.warmup_ratio, allowed)
    refuse_unused_data("data", experiment.data, written)
    if experiment.forgetting.data is not None:
        refuse_unused_data("forgetting.data", experiment.forgetting.data, written)


def refuse_unused_data(prefix: str, data: Data, written: Collection[str]) -> None:
    """Refuse settings of data, one set or several, that others of it switch off.

    Raises:
        ConfigError: as `refuse_unused`.
    """
    seed_key = f"{prefix}.mixing_seed"
    is_given = seed_key in written or data.mixing_seed != 0
    if is_given and data.mixing == CONCATENATE:
        allowed = f"needs {prefix}.mixing=interleave_under or interleave_over"
        raise ConfigError(seed_key, data.mixing_seed, allowed)
    if not data.sets:
        refuse_unused_in_set(prefix, data, written)
    for name, settings in data.sets.items():
        if f"{prefix}.sets.{name}.name" in written:
            allowed = (
                f"must be left out: among several sets each has its key as its name, here {name}"
            )
            raise ConfigError(f"{prefix}.sets.{name}.name", settings.name, allowed)
        refuse_unused_in_set(f"{prefix}.sets.{name}", settings, written)


def refuse_unused_in_set(prefix: str, data: SingleSet, written: Collection[str]) -> None:
    """Refuse settings of one set that others of it switch off.

    Raises:
        ConfigError: as `refuse_unused`.
    """
    seed_key = f"{prefix}.split_seed"
    is_given = seed_key in written or data.split_seed != 0
    draws = data.takes_training_rows("validation") or data.takes_training_rows("test")
    if is_given and not draws:
        allowed = f"needs {prefix}.validation_share, validation_rows or test_share"
        raise ConfigError(seed_key, data.split_seed, allowed)
    # The YAML of a set has one of each pair as its default, which the other on the command line takes the place of.
    for key, other in REPLACED_BY.items():
        value = getattr(data, key)
        is_written = f"{prefix}.{key}" in written and value is not None
        if is_written and getattr(data, other) is not None:
            allowed = f"must be left out where {prefix}.{other} is given, which takes its place"
            raise ConfigError(f"{prefix}.{key}", value, allowed)
    for key in SHARES:
        if f"{prefix}.{key}" in written and getattr(data, key):
            refuse_unused_share(prefix, data, key)


def refuse_unused_share(prefix: str, data: SingleSet, key: str) -> None:
    """Refuse a written share of training rows that the settings leave no use for. A set's YAML may have one.

    Raises:
        ConfigError: all rows judge, or the set ships, with a split of its own.
    """
    value = getattr(data, key)
    if data.only_for is not None:
        allowed = (
            f"must be left out where {prefix}.only_for={data.only_for}, all of whose rows judge"
        )
        raise ConfigError(f"{prefix}.{key}", value, allowed)
    split = key.partition("_")[0]
    if data.ships and getattr(data.splits, split) is not None:
        allowed = f"the set has {split} rows itself; {prefix}.splits.{split}=null leaves them alone"
        raise ConfigError(f"{prefix}.{key}", value, allowed)
