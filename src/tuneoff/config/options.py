"""How an option is declared with its range, and the one error type that becomes a one-line refusal."""

import math
from collections.abc import Callable
from dataclasses import field, fields
from enum import Enum
from importlib.util import find_spec
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot be used: the key, the value given (if there is one), and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str):
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}{'' if value is ABSENT else f'={format_value(value)}'}: {allowed}")


ABSENT = object()


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def option(default: Any, allowed: str, accepts: Callable[[Any], bool]) -> Any:
    """Return a dataclass field that knows its range; `None` always passes."""
    return field(default=default, metadata={"allowed": allowed, "accepts": accepts})


def at_least(default: float | None, low: float) -> Any:
    """An option in [low, infinity)."""
    return option(default, f"must be at least {low}", lambda value: low <= value < math.inf)


def above(default: float | None, low: float) -> Any:
    """An option in (low, infinity)."""
    return option(default, f"must be above {low}", lambda value: low < value < math.inf)


def one_of(default: str | None, *names: str) -> Any:
    """An option among a few words that cannot be an enum (because some are no identifiers)."""
    return option(default, f"must be one of {', '.join(names)}", lambda value: value in names)


def names(default: Any = None) -> Any:
    """A list of names: Hydra's list, the word `all`, or a comma-separated string."""
    return field(default=default, metadata={"names": True})


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Normalise name lists and refuse what lies outside a declared range.

    Raises:
        ConfigError: for the first option whose value is not allowed.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.metadata.get("names"):
            if value is None and item.default is not None:
                raise ConfigError(prefix + item.name, None, "must name modules, or be the word all")
            setattr(settings, item.name, as_names(prefix + item.name, value))
        accepts = item.metadata.get("accepts")
        if accepts and value is not None and not accepts(value):
            raise ConfigError(prefix + item.name, value, item.metadata["allowed"])


def as_names(key: str, value: Any) -> list[str] | None:
    """Return a list of names from a list or a comma-separated string; `None` stays.

    Raises:
        ConfigError: if it is neither, or holds an empty or a repeated name.
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(
        isinstance(part, str) and part.strip() for part in parts
    ):
        raise ConfigError(key, value, f"must be names, as in {key}=[one,two]")
    parts = [part.strip() for part in parts]
    if not parts or len(set(parts)) < len(parts):
        raise ConfigError(key, value, "must hold at least one name, and none twice")
    if "all" in parts and len(parts) > 1:
        raise ConfigError(key, value, "all stands alone")
    return parts


def check_package(key: str, value: Any, package: str, extra: str) -> None:
    """Refuse a setting whose package is not installed; looks for it without importing it.

    Raises:
        ConfigError: with the extra of ours that installs it.
    """
    if find_spec(package) is None:
        raise ConfigError(
            key, value, f"needs a package that is not installed: pip install 'tuneoff[{extra}]'"
        )


# What transformers and LLaMA-Factory call our settings, where no name resembles ours.
ELSEWHERE = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "cutoff_len": "max_length",
    "lr_scheduler_type": "scheduler",
    "optim": "optimizer",
    "bf16": "mixed_precision",
    "fp16": "mixed_precision",
    "quantization_bit": "quantization",
    "finetuning_type": "method",
    "model_name_or_path": "model.path",
    "dataset": "data",
    "max_samples": "data.limit",
    "val_size": "data.validation_share",
    "output_dir": "hydra.run.dir",
    "resume_from_checkpoint": "resume",
    "save_steps": "save_every",
    "eval_steps": "eval_every",
    "save_total_limit": "keep_checkpoints",
    "report_to": "tracker",
    "neat_packing": "packing",
}


def suggest_nearest(word: str, known: Any) -> str:
    """`; did you mean …?` where a known name is close to `word`, or is what others call it; else nothing."""
    if word in ELSEWHERE:
        return f"; did you mean {ELSEWHERE[word]}?"
    from difflib import get_close_matches

    close = get_close_matches(word, [str(name) for name in known], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
