"""Allowed values: what the dataclasses of the settings say of a key, in words."""

from dataclasses import Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from tuneoff.config import Experiment, schemas, shorten

KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def find_field(key: str) -> Field | None:
    """The dataclass field behind a dotted key of any method, or None."""
    *parents, name = key.split(".")
    classes: list[Any] = [Experiment, *schemas().values()]
    for parent in parents:
        classes = find_nested_classes(classes, parent)
    for cls in classes:
        for item in fields(cls):
            if item.name == name:
                return item
    return None


@cache
def read_field_types(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by name; kept, since help asks of every option of every method."""
    return get_type_hints(cls)


def find_nested_classes(classes: list[Any], name: str) -> list[Any]:
    """The dataclass that the field of this name holds, in those of the classes that have such a field."""
    nested = []
    for hint in list_hints(classes, name):
        kinds = get_args(hint) or (hint,)
        nested += [kind for kind in kinds if is_dataclass(kind)]
    return nested


def is_boolean(key: str) -> bool:
    """Whether a dotted key is declared, and as true or false by every class that declares it."""
    classes: list[Any] = [Experiment, *schemas().values()]
    *parents, name = key.split(".")
    names = iter(parents)
    for parent in names:
        hints = list_hints(classes, parent)
        classes = find_nested_classes(classes, parent)
        if any(get_origin(hint) is dict for hint in hints):
            next(names, None)  # of one of its values, each of the class that was found
    hints = list_hints(classes, name)
    kinds = [set(get_args(hint) or (hint,)) for hint in hints]
    return bool(kinds) and all(kind - {NoneType} == {bool} for kind in kinds)


def list_hints(classes: list[Any], name: str) -> list[Any]:
    """The types of the field of this name, in those of the classes that have such a field."""
    types = map(read_field_types, classes)
    return [hints[name] for hints in types if name in hints]


def describe_setting(key: str) -> str | None:
    """`must be …` of a dotted key that holds settings of its own; None for another."""
    *parents, name = key.split(".")
    classes: list[Any] = [Experiment, *schemas().values()]
    for parent in parents:
        classes = find_nested_classes(classes, parent)
    nested = find_nested_classes(classes, name)
    if nested:
        return describe_kind(nested[0], key)
    hints = list_hints(classes, name)
    kinds = [kind for hint in hints for kind in (hint, *get_args(hint))]
    is_map = any(get_origin(kind) is dict for kind in kinds)
    return f"must be keys with values, as in {key}.KEY=VALUE" if is_map else None


def describe_allowed(cls: Any, name: str) -> str | None:
    """`must be …` from a field's type and its declared range; None where the class says nothing."""
    owner: Any = cls  # is_dataclass() narrows it to what mypy does not take for hashable
    if not is_dataclass(cls) or name not in read_field_types(owner):
        return None
    hint = read_field_types(owner)[name]
    if get_origin(hint) is dict:
        return "must be names, each with keys of its own"
    kinds = get_args(hint) or (hint,)
    words = describe_kind(kinds[0], name)
    item = next(item for item in fields(cls) if item.name == name)
    allowed = item.metadata.get("allowed")
    if words is None:
        null = ", or null" if allowed and item.default is None else ""
        return allowed and allowed + null
    if not is_dataclass(kinds[0]):
        if allowed:
            words += f", {allowed.removeprefix('must be ')}"
        if NoneType in kinds:
            words += ", or null"
    return words


def describe_kind(kind: Any, name: str) -> str | None:
    """`must be …` from a type alone; None for a type that no sentence is known for."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"must be one of {', '.join(kind.__members__)}"
    if kind in KINDS:
        return f"must be {KINDS[kind]}"
    if is_dataclass(kind):
        parts = [f"{name}.{item.name}" for item in fields(kind)]
        return f"must be given by its parts, {', '.join(parts)}"
    return None


def written_override(key: str, arguments: list[str]) -> str:
    """`key=value` as the user wrote it, or a part of it; the key alone where neither was written."""
    below = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = name.lstrip("+~")
        if not equals:  # as `-cn lora_rank` has of a file
            continue
        written = f"{shorten(name)}={shorten(value)}"
        if name == key:
            return written
        if name.startswith(f"{key}."):
            below = below or written
    return below or shorten(key)
