"""Binding: a composed config, checked, becomes (experiment, method); and what names a run, its identity."""

import copy
import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from tuneoff.config.experiment import Experiment
from tuneoff.config.options import ABSENT, ConfigError, Role, find_settings, suggest_nearest
from tuneoff.config.paths import data_hash
from tuneoff.config.registered import schemas


# ---------------------------------------------------------------- the methods' options
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
        options.update(_keys(schema))
    return options - set(_keys(Experiment))


def _keys(cls: Any) -> list[str]:
    """The names of a dataclass's fields."""
    return [item.name for item in fields(cls)]


# ---------------------------------------------------------------- keys that cannot be
InvalidKey = tuple[str, Any, str]  # the key, its value, and what is allowed


def find_invalid_keys(cfg: DictConfig, prefix: str = "") -> Iterator[InvalidKey]:
    """Keys that no dataclass declares, or that a `~` removed, at every depth: Hydra accepts both silently."""
    cls: Any = OmegaConf.get_type(cfg)
    # Node by node without OmegaConf's own checks, which a sweep of 2,000 points pays for 200,000 times.
    nodes: dict[str, Any] = {}
    for key in cfg:
        nodes[str(key)] = cfg._get_node(key, validate_access=False)
    for item in fields(cls):
        node = nodes.get(item.name)
        if node is None or _lost_its_type(node, item):
            yield f"~{prefix}{item.name}", ABSENT, "cannot be removed"
        elif node._is_missing():
            yield prefix + item.name, ABSENT, "must be given"
    declared = _keys(cls)
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
    """What to say of a key that no dataclass declares: whose option it is, or which it resembles."""
    parent, _, name = key.rpartition(".")
    if re.search(r"\bdata\.sets$", parent):
        return "no such set; one is added in a YAML of your own, or in the list data=[gsm8k,alpaca]"
    if parent:
        nearest = suggest_nearest(name, declared) or f"; there are {', '.join(declared)}"
        return f"no such option in {parent}{nearest}"
    owners = [owner for owner, schema in schemas().items() if name in _keys(schema)]
    hint = f", but for {', '.join(owners)}" if owners else suggest_nearest(name, declared)
    return f"no such option for method={method}{hint}"


# ---------------------------------------------------------------- checking
def bind(
    cfg: DictConfig,
    written: Collection[str] = (),
) -> tuple[Experiment, Any]:
    """Return (experiment, method), each built from its own keys alone, and checked together.

    Args:
        cfg: the task's part of a composed config.
        written: the keys on the command line, so that an option without effect is refused at its default too.

    Raises:
        ConfigError: for the first key that is unknown, removed, out of range, or contradicts another.
    """
    for key, value, allowed in find_invalid_keys(cfg):
        raise ConfigError(key, value, allowed)
    composed: Any = OmegaConf.to_object(cfg)
    experiment = _build(Experiment, composed)
    method = _build(composed.options, composed)
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
    return cls(**{key: getattr(composed, key) for key in _keys(cls)})


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
    bound = _bind_unless_added(task, overrides)
    experiment, _ = bound
    named = any(override.startswith("llamafactory=") for override in overrides)
    if experiment.llamafactory is not None and not named:
        allowed = "is for the command line, which reads the file before anything else"
        raise ConfigError("llamafactory", experiment.llamafactory, allowed)
    # OmegaConf takes any number, and much else, for a boolean.
    for override in overrides:
        key, _, value = override.partition("=")
        is_boolean = isinstance(OmegaConf.select(task, key), bool)
        if is_boolean and value.lower() not in ("true", "false"):
            raise ConfigError(key, value, "must be true or false")
    return bound


def _bind_unless_added(task: DictConfig, overrides: list[str]) -> tuple[Experiment, Any]:
    """Refuse what a `+` adds, and what cannot be bound, which knows a key's nearest name."""
    added = [override for override in overrides if re.match(r"\+[^+]", override)]
    # Hydra would append a second choice, whose defaults silently replace what the method's YAML says.
    second_methods = [override for override in added if override.startswith("+schema=")]
    bound = None
    if not second_methods:
        keys = [override.lstrip("+").partition("=")[0] for override in overrides]
        bound = bind(task, keys)
    for override in second_methods or added:
        raise ConfigError(override, ABSENT, "nothing can be added; an option is written key=value")
    assert bound is not None
    return bound


# ---------------------------------------------------------------- where the rate comes from
def find_lr_source(cfg: DictConfig, tuned: bool = False) -> str:
    """Say where the learning rate of a composed config comes from.

    Args:
        cfg: the config, its interpolations not resolved.
        tuned: whether a rate that is given was taken from a tuning sweep.

    Returns:
        `default` where it is the method's own, which was never tuned on this model and data; else `tuned` or `given`.
    """
    if OmegaConf.is_interpolation(cfg, "lr"):
        return "default"
    return "tuned" if tuned else "given"


# ---------------------------------------------------------------- identity
def resolve_config(cfg: DictConfig) -> dict:
    """The task's config as plain values (enums by name), without Hydra's own part."""
    task = cfg
    if "hydra" in cfg:
        task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return OmegaConf.to_container(task, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def identify_run(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name a run: a hash of what can change its result, the data's files included.

    Raises:
        ConfigError: a file of the data that cannot be read.
    """
    incidental = find_settings(OmegaConf.get_type(cfg), Role.INCIDENTAL)
    config = resolve_config(cfg)
    for key in incidental:
        config.pop(key, None)
    text = json.dumps(_sort_keys(config), default=str)
    digest = hashlib.sha256(text.encode())
    for prefix, data in (("data", cfg.data), ("forgetting.data", cfg.forgetting.data)):
        for key, settings in _list_sets(prefix, data):
            digest.update(_hash_files(f"{key}.path", settings))
    return digest.hexdigest()[:8]


def _sort_keys(value: Any) -> Any:
    """The same content with every dictionary in the order of its keys as text; JSON's own order takes no mixed ones."""
    if isinstance(value, dict):
        named = {str(key): item for key, item in value.items()}
        return {key: _sort_keys(named[key]) for key in sorted(named)}
    if isinstance(value, list):
        return [_sort_keys(item) for item in value]
    return value


def _list_sets(prefix: str, data: DictConfig | None) -> Iterator[tuple[str, DictConfig]]:
    """Yield each set of data settings, with the key at which it stands."""
    if data is None:
        return
    if not data.sets:
        yield prefix, data
    for name, settings in data.sets.items():
        yield f"{prefix}.sets.{name}", settings


def _hash_files(key: str, data: DictConfig) -> bytes:
    """The hash of a set's files as bytes; empty without files."""
    try:
        return data_hash(data.path).encode()
    except OSError as error:
        reason = f"{error.filename or data.path} cannot be read: {error.strerror}"
        raise ConfigError(key, data.path, reason) from error


ConfigStore.instance().store(name="experiment", node=Experiment)
