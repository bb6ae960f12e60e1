"""Tuned conditions: under which settings a rate was tuned, and in which of them a comparison differs."""

from dataclasses import fields
from typing import Any

from tuneoff.config import BUDGETS, ConfigError, Experiment, Role, find_settings, format_value
from tuneoff.config.benchmarks import BenchmarkSettings
from tuneoff.config.settings import EvaluationSettings
from tuneoff.record import flatten

# What says which problem a rate was tuned on, and is compared before; and what changes no training.
PROBLEM = ("method", "model", "data")
WITHOUT_EFFECT = (
    "seed",
    "save_model",
    "export_merged",
    "pure_bf16",
    "save_best",
    "which",
    *BUDGETS,
)
BUDGET = "budget"

Differences = dict[
    str, tuple[str, str]
]  # by key: the tuned value and the one here, as they are written


def find_differences(
    tuned: dict[str, Any],
    here: dict[str, Any],
    space: dict,
) -> Differences:
    """Return the settings in which a comparison's config differs from that of a tuning's trials.

    Args:
        tuned: the config of a trial.
        here: the config of a run that wants the tuned values.
        space: the keys that were tuned, whose values are taken over.
    """
    left_out = {*PROBLEM, *WITHOUT_EFFECT, *space, *find_settings(Experiment, Role.INCIDENTAL)}
    for group in (EvaluationSettings, BenchmarkSettings):
        left_out.update(item.name for item in fields(group))
    tuned = list_settings(settle(tuned))
    here = list_settings(settle(here))
    differences = {}
    for key in here:
        if key in left_out or find_root(key) in left_out:
            continue
        # A trial of an older version may lack a key.
        if key in tuned and tuned[key] != here[key]:
            differences[key] = (format_value(tuned[key]), format_value(here[key]))
    return differences


def list_settings(
    config: dict[str, Any],
    prefix: str = "",
) -> dict[str, Any]:
    """Return the settings of a config by their whole keys, as in `peft.r`, by which they are given."""
    settings = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            settings.update(list_settings(value, f"{prefix}{key}."))
        else:
            settings[prefix + key] = value
    return settings


def find_root(key: str) -> str:
    """Return the first part of a key, or of an override's: `data` of `data.limit` and of `data.limit=5`."""
    return key.partition("=")[0].lstrip("+~").partition(".")[0]


def settle(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config in which two ways to say the same have become one: of the budget, and of the weights' type."""
    settled = dict(config)
    data = config.get("data")
    defaults = data if isinstance(data, dict) else {}
    kind = "epochs"
    value = defaults.get("default_epochs")
    if defaults.get("default_steps") is not None:
        kind = "max_steps"
        value = defaults["default_steps"]
    for key in BUDGETS:
        if config.get(key) is not None:
            kind = key
            value = config[key]
    settled[BUDGET] = f"{kind}={format_value(value)}"
    if config.get("dtype") is None:
        settled["dtype"] = "bfloat16" if config.get("pure_bf16") else "float32"
    if config.get("mixed_precision") == "auto" and settled["dtype"] == "bfloat16":
        has_two_types = config.get("trainable_dtype") == "float32"
        settled["mixed_precision"] = "bf16" if has_two_types else "no"
    return settled


def describe_problems(tuned: dict[str, Any], here: dict[str, Any]) -> str:
    """Return in which keys of model and data two configs differ: `data.test_share=0.1 there, 0.0 here`."""
    there = flatten({key: tuned.get(key) for key in ("model", "data")})
    now = flatten({key: here.get(key) for key in ("model", "data")})
    parts = []
    for key in now:
        if there.get(key) != now[key]:
            name = key.replace("/", ".")
            values = (format_value(there.get(key)), format_value(now[key]))
            parts.append(f"{name} ({values[0]} there, {values[1]} here)")
    return ", ".join(parts)


def refuse_differences(folder: str, method: str, differences: Differences) -> None:
    """Refuse values that were tuned under other settings.

    Raises:
        ConfigError: naming each setting, and how to take them all the same.
    """
    if not differences:
        return
    parts = []
    for key, (tuned, here) in differences.items():
        parts.append(f"{key} ({tuned} there, {here} here)")
    allowed = (
        f"method={method} was tuned under other settings: {', '.join(parts)}; tune anew with these, or take what was "
        "found all the same by tuned_anyway=true, which the record and the report will say"
    )
    raise ConfigError("tuned", folder, allowed)
