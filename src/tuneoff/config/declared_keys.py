"""Declared keys: the options of methods, and the keys of a config that no dataclass declares."""

import re
from collections.abc import Collection, Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config.experiment import Experiment
from tuneoff.config.options import ABSENT, ConfigError, suggest_nearest
from tuneoff.config.registered import schemas

InvalidKey = tuple[str, Any, str]  # the key, its value, and what is allowed


def method_packages() -> list[str]:
    """The packages that do the registered methods."""
    packages: set[str] = set()
    for schema in schemas().values():
        packages.update(schema.options.packages)
    return sorted(packages)


def find_method_options() -> set[str]:
    """The options that not every method has."""
    options: set[str] = set()
    for schema in schemas().values():
        options.update(list_keys(schema))
    return options - set(list_keys(Experiment))


def list_keys(cls: Any) -> list[str]:
    """The names of a dataclass's fields."""
    return [item.name for item in fields(cls)]


def find_invalid_keys(
    cfg: DictConfig,
    prefix: str = "",
    names: Collection[str] | None = None,
) -> Iterator[InvalidKey]:
    """Keys that no dataclass declares, or that a `~` removed, at every depth: Hydra accepts both silently.

    Args:
        cfg: a config whose keys a dataclass declares.
        prefix: what stands before its keys.
        names: those of its keys that are looked at; None for all.
    """
    cls: Any = OmegaConf.get_type(cfg)
    if not is_dataclass(cls):
        yield "defaults", ABSENT, "must begin with config, as in `defaults: [config, _self_]`"
        return
    # Node by node without OmegaConf's own checks, which take ten times as long.
    nodes: dict[str, Any] = {}
    for key in cfg:
        if names is None or key in names:
            nodes[str(key)] = cfg._get_node(key, validate_access=False)
    for item in fields(cls):
        if names is not None and item.name not in names:
            continue
        node = nodes.get(item.name)
        if node is None or _lost_its_type(node, item):
            yield f"~{prefix}{item.name}", ABSENT, "cannot be removed"
        elif node._is_missing():
            yield prefix + item.name, ABSENT, "must be given"
    declared = list_keys(cls)
    for key, node in nodes.items():
        if key not in declared:
            method = OmegaConf.select(cfg, "method")
            yield prefix + key, node, explain_unknown_key(f"{prefix}{key}", declared, method)
        elif OmegaConf.is_dict(node):
            for path, part in _list_typed_parts(node, f"{prefix}{key}"):
                yield from find_invalid_keys(part, f"{path}.")


def _list_typed_parts(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield a node where a dataclass declares its keys, or of keys with such values each value, with its path."""
    if is_dataclass(OmegaConf.get_type(node)):
        yield path, node
    elif is_dataclass(node._metadata.element_type) and not node._is_none():
        for name in node:
            yield f"{path}.{name}", node[name]


def _lost_its_type(node: Any, item: Field) -> bool:
    """Whether a key was removed and came back without the type that it is declared with."""
    return item.type is not Any and node._metadata.ref_type is Any


def explain_unknown_key(key: str, declared: list[str], method: str | None) -> str:
    """What to say of a key that is not declared where it stands: whose option it is, or which it resembles."""
    parent, _, name = key.rpartition(".")
    if re.search(r"\bdata\.sets$", parent):
        return "no such set; one is added in a YAML of your own, or in the list data=[gsm8k,alpaca]"
    if parent and not declared:
        return f"no such option in {parent}; it is given whole, as in '{parent}={{{name}: VALUE}}'"
    if parent:
        nearest = suggest_nearest(name, declared) or f"; there are {', '.join(declared)}"
        return f"no such option in {parent}{nearest}"
    owners = [owner for owner, schema in schemas().items() if name in list_keys(schema)]
    names = ", ".join(owners)
    if not owners:
        known = [*declared, *sorted(find_method_options().difference(declared))]
        hint = suggest_nearest(name, known)
    elif len(owners) == 1:
        hint = f", but for {names}"
    else:
        hint = f", but for the families {names} (conf/method/METHODS.md)"
    return f"no such option for method={method}{hint}"


def refuse_invalid_keys(cfg: DictConfig, names: Collection[str] | None = None) -> None:
    """Refuse the first key, of these or of all, that no dataclass declares, or that was removed.

    Raises:
        ConfigError: naming it.
    """
    for key, value, allowed in find_invalid_keys(cfg, names=names):
        raise ConfigError(key, value, allowed)
