"""Values in a YAML where settings of their own are meant: OmegaConf names the class that they should be, and no key."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from hydra.conf import HydraConf

from tuneoff.cli.allowed_values import describe_kind, read_field_types
from tuneoff.config import Experiment, shorten

MERGE_ERROR = re.compile(r"Merge error: \w+ is not a subclass of (\w+)\. value: (.*)")


def explain_merge_error(message: str, arguments: list[str]) -> str | None:
    """The line for such an error, or None for another one.

    Args:
        arguments: what was written, among which is the value.
    """
    match = MERGE_ERROR.match(message)
    if match is None:
        return None
    for cls, prefix in ((Experiment, ""), (HydraConf, "hydra")):
        for key, kind in list_sections(cls, prefix):
            if kind.__name__ == match[1]:
                return f"{key}={shorten(match[2])}: {describe_kind(kind, key)}"
    for word in arguments:
        key, _, value = word.partition("=")
        if value == match[2]:
            return f"{key}={shorten(value)}: must be keys with values, as in {key}: {{KEY: VALUE}}"
    return None


def list_sections(cls: Any, key: str) -> Iterator[tuple[str, Any]]:
    """A class with the key that it is below, and the classes of all its fields, those further out first."""
    if key:
        yield key, cls
    nested = []
    for item in fields(cls):
        hint = read_field_types(cls)[item.name]
        for kind in get_args(hint) or (hint,):
            if is_dataclass(kind):
                nested.append((f"{key}.{item.name}".lstrip("."), kind))
    yield from nested
    for path, kind in nested:
        yield from list_sections(kind, path)


def write_nested(key: str) -> str:
    """A dotted key as a YAML has it: `data: {path: …}`."""
    *parents, name = key.split(".")
    opened = "".join(f"{parent}: {{" for parent in parents)
    return f"{opened}{name}: …{'}' * len(parents)}"
