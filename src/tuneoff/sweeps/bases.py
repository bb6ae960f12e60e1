"""Bases: what a task has without a sweep's values, for the options of the sweeper that name a setting."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, explain_unknown_key, format_value


def list_keys_beside(task: DictConfig, key: str) -> list[str]:
    """The names that a composed task has where `key` stands, or would stand."""
    parent = key.rpartition(".")[0]
    holder: Any = OmegaConf.select(task, parent) if parent else task
    return list(map(str, holder)) if OmegaConf.is_dict(holder) else []


def has_key(task: DictConfig, key: str) -> bool:
    """Whether a composed task has a setting, be it null."""
    return key.rpartition(".")[2] in list_keys_beside(task, key)


def refuse_unknown_setting(
    option: str,
    factors: list[float],
    task: DictConfig,
    key: str,
) -> None:
    """Refuse an option of the sweeper that names a setting which a task does not have.

    Raises:
        ConfigError: with whose setting it is, or which it resembles.
    """
    if not has_key(task, key):
        reason = explain_unknown_key(key, list_keys_beside(task, key), task.method)
        raise ConfigError(option, write_numbers(factors), reason)


def find_base(
    option: str,
    factors: list[float],
    task: DictConfig,
    key: str,
) -> int | float:
    """The number that factors multiply.

    Raises:
        ConfigError: the task does not have the key, or no number there.
    """
    refuse_unknown_setting(option, factors, task, key)
    base = OmegaConf.select(task, key)
    if isinstance(base, bool) or not isinstance(base, int | float):
        written = f"{key}={format_value(base)}"
        allowed = f"multiplies a number, and method={task.method} has {written}"
        raise ConfigError(option, write_numbers(factors), allowed)
    return base


def write_numbers(numbers: list[float]) -> str:
    """`0.1,1,10`, as an option has them."""
    return ",".join(f"{number:g}" for number in numbers)
