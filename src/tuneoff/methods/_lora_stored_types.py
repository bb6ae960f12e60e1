"""An adapter's settings as its file must hold them: PEFT takes what is there, and fails late or trains otherwise."""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number above 0, and no boolean."""
    return type(value) is int and value > 0


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no boolean."""
    return type(value) in (int, float) and math.isfinite(value)


def is_above_zero(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_share(value: Any) -> bool:
    """Whether a value is a share that can be dropped."""
    return is_number(value) and 0 <= value < 1


def is_switch(value: Any) -> bool:
    """Whether a value is true, false or null."""
    return value is None or isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether a value is a text or null."""
    return value is None or isinstance(value, str)


def are_names(value: Any) -> bool:
    """Whether a value is a list of texts or null."""
    if value is None:
        return True
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_pattern(value: Any) -> bool:
    """Whether a value is a regular expression."""
    if not isinstance(value, str):
        return False
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def are_names_or_pattern(value: Any) -> bool:
    """Whether a value is a list of texts, a regular expression, or null."""
    return are_names(value) or is_pattern(value)


def are_layers(value: Any) -> bool:
    """Whether a value is the number of a layer, a list of them, or null."""
    numbers = value if isinstance(value, list) else [value]
    return value is None or all(type(number) is int and number >= 0 for number in numbers)


def are_by_pattern(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return whether a value has regular expressions with values that are accepted, or is null."""

    def check(value: Any) -> bool:
        if value is None:
            return True
        if not isinstance(value, dict):
            return False
        return all(map(is_pattern, value)) and all(map(accepts, value.values()))

    return check


class StoredType(NamedTuple):
    """What a stored setting can be, and that in words."""

    accepts: Callable[[Any], bool]
    allowed: str


NAMES = StoredType(are_names, "must be a list of names, or null")
MODULES = StoredType(
    are_names_or_pattern, "must be a list of names, or a text that is a regular expression"
)
SWITCH = StoredType(is_switch, "must be true or false")
STORED_TYPES = {
    "r": StoredType(is_whole, "must be a whole number above 0"),
    "lora_alpha": StoredType(is_above_zero, "must be a number above 0"),
    "lora_dropout": StoredType(is_share, "must be a number in [0, 1)"),
    "target_modules": MODULES,
    "exclude_modules": MODULES,
    "target_parameters": NAMES,
    "modules_to_save": NAMES,
    "rank_pattern": StoredType(
        are_by_pattern(is_whole), "must be regular expressions with whole numbers above 0"
    ),
    "alpha_pattern": StoredType(
        are_by_pattern(is_above_zero), "must be regular expressions with numbers above 0"
    ),
    "layers_to_transform": StoredType(are_layers, "must be numbers of layers, or null"),
    "layers_pattern": MODULES,
    "use_rslora": SWITCH,
    "use_dora": SWITCH,
    "fan_in_fan_out": SWITCH,
    "base_model_name_or_path": StoredType(is_text, "must be text, or null"),
}
# For these PEFT would take a default of its own.
REQUIRED = ("r", "lora_alpha")


def describe_wrong_type(config: dict[str, Any]) -> str | None:
    """The first setting of an adapter that is not as PEFT needs it, and what it must be; None where all are."""
    for name, stored_type in STORED_TYPES.items():
        if name not in config:
            if name in REQUIRED:
                return f"no {name}; {stored_type.allowed}"
        elif not stored_type.accepts(config[name]):
            return f"{name}={json.dumps(config[name])}; {stored_type.allowed}"
    return None
