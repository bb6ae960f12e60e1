"""Binding: a composed config, checked, becomes (experiment, method)."""

import copy
import re
from collections.abc import Collection
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from tuneoff.config.declared_keys import list_keys, refuse_invalid_keys
from tuneoff.config.experiment import Experiment
from tuneoff.config.options import ABSENT, ConfigError
from tuneoff.config.unused import refuse_unused


def read_settings(cfg: DictConfig) -> Any:
    """The task's part of a composed config as one object of its method's composed class, which checks no values.

    Raises:
        ConfigError: for the first key that is unknown or removed.
    """
    refuse_invalid_keys(cfg)
    return OmegaConf.to_object(cfg)


def bind(
    cfg: DictConfig,
    written: Collection[str] = (),
) -> tuple[Experiment, Any]:
    """Return (experiment, method) of the task's part of a composed config, checked together.

    Args:
        cfg: the task's part of a composed config.
        written: the keys on the command line, so that an option without effect is refused at its default too.

    Raises:
        ConfigError: for the first key that is unknown, removed, out of range, or contradicts another.
    """
    return bind_settings(read_settings(cfg), written)


def bind_settings(
    settings: Any,
    written: Collection[str] = (),
) -> tuple[Experiment, Any]:
    """Return (experiment, method), each built from its own settings alone, and checked together.

    Args:
        settings: an object of a method's composed class, which is used up.
        written: the keys on the command line.

    Raises:
        ConfigError: for the first setting that is out of range, or contradicts another.
    """
    experiment = _build(Experiment, settings)
    refuse_unused(experiment, written)
    method = _build(settings.options, settings)
    if experiment.quantised and not method.keeps_base:
        allowed = (
            f"method={experiment.method} trains the base weights, and quantised ones cannot "
            "be trained; adapters on top of them can"
        )
        key, value = experiment.quantised
        raise ConfigError(key, value, allowed)
    if method.optimizers is not None and experiment.optimizer not in method.optimizers:
        names = ", ".join(optimizer.name for optimizer in method.optimizers)
        allowed = f"must be one of {names} where method={experiment.method}"
        raise ConfigError("optimizer", experiment.optimizer, allowed)
    method.written = frozenset(written)
    method.check(experiment)
    return experiment, method


def _build(cls: type, composed: Any) -> Any:
    """An object of a dataclass, with its own part of a composed config."""
    return cls(**{key: getattr(composed, key) for key in list_keys(cls)})


def check_config(cfg: DictConfig) -> DictConfig:
    """Return the task's part of a composed config, once it is known to bind.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    task = copy.deepcopy(cfg)
    with open_dict(task):
        hydra = task.pop("hydra", None)
    overrides = list(hydra.overrides.task) if hydra else []
    check_task(task, overrides)
    return task


def check_task(task: DictConfig, overrides: list[str]) -> tuple[Experiment, Any]:
    """Bind a config without Hydra's part, checked together with the overrides that it was composed with.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    refuse_second_method(overrides)
    return check_settings(read_settings(task), overrides)


def check_settings(settings: Any, overrides: list[str]) -> tuple[Experiment, Any]:
    """Bind settings, checked together with the overrides that they were composed with.

    Args:
        settings: an object of a method's composed class, which is used up.
        overrides: as they were written.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    bound = bind_settings(
        settings, [override.lstrip("+").partition("=")[0] for override in overrides]
    )
    for override in _list_added(overrides):
        _refuse_added(override)
    experiment, _ = bound
    named = any(override.startswith("llamafactory=") for override in overrides)
    if experiment.llamafactory is not None and not named:
        allowed = "is for the command line, which reads the file before anything else"
        raise ConfigError("llamafactory", experiment.llamafactory, allowed)
    # OmegaConf takes any number, and much else, for a boolean.
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        is_boolean = isinstance(_find_value(settings, key), bool)
        if is_boolean and value.lower() not in ("true", "false"):
            raise ConfigError(key, value, "must be true or false")
    return bound


def _find_value(settings: Any, key: str) -> Any:
    """What stands at a key with dots, be it in dictionaries or objects; None where nothing does."""
    value = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


def _list_added(overrides: list[str]) -> list[str]:
    """The overrides that add a key."""
    return [override for override in overrides if re.match(r"\+[^+]", override)]


def refuse_second_method(overrides: list[str]) -> None:
    """Refuse a second choice that Hydra would append, whose defaults silently replace what the method's YAML says.

    Raises:
        ConfigError: naming it.
    """
    for override in _list_added(overrides):
        if override.startswith("+schema="):
            _refuse_added(override)


def _refuse_added(override: str) -> None:
    """Refuse what a `+` adds; where it cannot be bound, that knows a key's nearest name, and comes first."""
    raise ConfigError(override, ABSENT, "nothing can be added; an option is written key=value")


# ---------------------------------------------------------------- where the rate comes from
def find_lr_source(cfg: DictConfig, tuned: bool = False) -> str:
    """Say where the learning rate of a composed config comes from.

    Args:
        cfg: the config, its interpolations not resolved.
        tuned: whether a rate that is given was taken from a tuning sweep.

    Returns:
        `default` where it is the method's own, which no sweep of the user's has tuned; else `tuned` or `given`.
    """
    if OmegaConf.is_interpolation(cfg, "lr"):
        return "default"
    return "tuned" if tuned else "given"


def store_experiment() -> None:
    """Put the shared settings in Hydra's store, where every config begins with them."""
    typed = OmegaConf.structured(Experiment)
    # A model type has more keys than its YAML names; loading refuses those that it does not have.
    OmegaConf.set_struct(typed.model._get_node("config"), False)
    ConfigStore.instance().store(name="experiment", node=typed)


store_experiment()
