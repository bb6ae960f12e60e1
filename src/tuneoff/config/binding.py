"""Binding: a composed config, checked, becomes (experiment, method); and what names a run, its identity."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from tuneoff.config.options import ABSENT, ConfigError, Role, find_settings, suggest_nearest
from tuneoff.config.paths import data_hash
from tuneoff.config.settings import Experiment


def schemas() -> dict[str, Any]:
    """The composed class of every registered method family, by the module's name."""
    # Looked at where it lies, since `load` copies it.
    stored: Any = ConfigStore.instance().repo.get("schema", {})
    return {
        file.removesuffix(".yaml"): OmegaConf.get_type(node.node)
        for file, node in sorted(stored.items())
    }


def method_packages() -> list[str]:
    """The packages that do the registered methods."""
    return sorted({name for schema in schemas().values() for name in schema.options.packages})


def find_invalid_keys(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Keys that no dataclass declares, or that a `~` removed, at every depth: Hydra accepts both silently."""
    declared: Any = OmegaConf.get_type(cfg)
    known = [item.name for item in fields(declared)]
    for key in known:
        if key not in list(cfg):
            yield f"~{prefix}{key}", ABSENT, "cannot be removed"
        elif OmegaConf.is_missing(cfg, key):
            yield prefix + key, ABSENT, "must be given"
    for key in map(str, cfg):
        node = cfg._get_node(key)
        if key not in known:
            yield (
                prefix + key,
                node,
                explain_unknown_key(f"{prefix}{key}", known, OmegaConf.select(cfg, "method")),
            )
        elif OmegaConf.is_dict(node) and is_dataclass(OmegaConf.get_type(node)):
            yield from find_invalid_keys(cfg[key], f"{prefix}{key}.")


def explain_unknown_key(key: str, known: list[str], method: str | None) -> str:
    """What to say of a key that no dataclass declares: whose option it is, or which it resembles."""
    parent, _, name = key.rpartition(".")
    if parent:
        return f"no such option in {parent}" + (
            suggest_nearest(name, known) or f"; there are {', '.join(known)}"
        )
    owners = [
        owner
        for owner, schema in schemas().items()
        if name in (item.name for item in fields(schema))
    ]
    elsewhere = f", but for {', '.join(owners)}" if owners else suggest_nearest(name, known)
    return f"no such option for method={method}{elsewhere}"


def bind(cfg: DictConfig) -> tuple[Experiment, Any]:
    """Return (experiment, method), each built from its own keys alone, and checked together.

    Raises:
        ConfigError: for the first key that is unknown, removed, out of range, or contradicts another.
    """
    for key, value, allowed in find_invalid_keys(cfg):
        raise ConfigError(key, value, allowed)
    whole: Any = OmegaConf.to_object(cfg)
    experiment, method = _pick(Experiment, whole), _pick(whole.options, whole)
    if experiment.quantised and not method.keeps_base:
        key, value = experiment.quantised
        raise ConfigError(
            key,
            value,
            f"method={experiment.method} trains the base weights, and quantised ones cannot "
            "be trained; adapters on top of them can",
        )
    method.check(experiment)
    return experiment, method


def _pick(cls: type, whole: Any) -> Any:
    return cls(**{item.name: getattr(whole, item.name) for item in fields(cls)})


def check_config(cfg: DictConfig) -> DictConfig:
    """The task's part of a composed config.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    task = copy.deepcopy(cfg)
    with open_dict(task):
        hydra = task.pop("hydra", None)
    written = list(hydra.overrides.task) if hydra else []
    added = [text for text in written if re.match(r"\+[^+]", text)]
    # Hydra would append a second choice, whose defaults silently replace what the method's YAML says.
    second = [text for text in added if text.startswith("+schema=")]
    if not second:
        bind(task)  # it knows the key's nearest name
    for override in second or added:
        raise ConfigError(override, ABSENT, "nothing can be added; an option is written key=value")
    for key, _, value in (text.partition("=") for text in written):
        # OmegaConf takes any number, and much else, for a boolean.
        if isinstance(OmegaConf.select(task, key), bool) and value.lower() not in ("true", "false"):
            raise ConfigError(key, value, "must be true or false")
    return task


def find_method_options() -> set[str]:
    """The options that not every method has."""
    shared = {item.name for item in fields(Experiment)}
    return {item.name for schema in schemas().values() for item in fields(schema)} - shared


# ---------------------------------------------------------------- identity
def resolve_config(cfg: DictConfig) -> dict:
    """The task's config as plain values (enums by name), without Hydra's own part."""
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return OmegaConf.to_container(task, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def identify_run(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name a run: a hash of what can change its result, the data's files included."""
    incidental = find_settings(OmegaConf.get_type(cfg), Role.INCIDENTAL)
    plain = {key: value for key, value in resolve_config(cfg).items() if key not in incidental}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for data in (cfg.data, cfg.forgetting.data):
        digest.update(b"" if data is None else data_hash(data.path).encode())
    return digest.hexdigest()[:8]


ConfigStore.instance().store(name="experiment", node=Experiment)
