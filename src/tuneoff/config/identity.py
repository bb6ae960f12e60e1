"""Identity: a config as plain values, and what names a run: a hash of those that can change its result."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config.options import ConfigError, Role, find_settings
from tuneoff.config.paths import data_hash


def resolve_config(cfg: DictConfig) -> dict:
    """The task's config as plain values (enums by name), without Hydra's own part."""
    task = cfg
    if "hydra" in cfg:
        task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return OmegaConf.to_container(task, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def list_values(settings: Any) -> Any:
    """Settings that were read from a config as plain values (enums by name), the same as `resolve_config` has."""
    if isinstance(settings, Enum):
        return settings.name
    if is_dataclass(settings):
        return {key: list_values(value) for key, value in vars(settings).items()}
    if isinstance(settings, dict):
        return {key: list_values(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [list_values(value) for value in settings]
    return settings


def identify_run(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name a run: a hash of what can change its result, the data's files included.

    Raises:
        ConfigError: a file of the data that cannot be read.
    """
    return identify_config(resolve_config(cfg), OmegaConf.get_type(cfg), data_hash)


def identify_config(
    config: dict,
    schema: Any,
    hash_path: Callable[[str], str],
) -> str:
    """What names a run, of its config as plain values.

    Args:
        config: as `resolve_config` has it.
        schema: the composed class of the run's method.
        hash_path: what hashes the files behind a data path.

    Raises:
        ConfigError: a file of the data that cannot be read.
    """
    incidental = find_settings(schema, Role.INCIDENTAL)
    kept = {key: value for key, value in config.items() if key not in incidental}
    text = json.dumps(_sort_keys(kept), default=str)
    digest = hashlib.sha256(text.encode())
    for prefix, data in (
        ("data", config["data"]),
        ("forgetting.data", config["forgetting"]["data"]),
    ):
        for key, settings in _list_sets(prefix, data):
            digest.update(_hash_files(f"{key}.path", settings["path"], hash_path))
    return digest.hexdigest()[:8]


def _sort_keys(value: Any) -> Any:
    """The same content with every dictionary in the order of its keys as text; JSON's own order takes no mixed ones."""
    if isinstance(value, dict):
        named = {str(key): item for key, item in value.items()}
        return {key: _sort_keys(named[key]) for key in sorted(named)}
    if isinstance(value, list):
        return [_sort_keys(item) for item in value]
    return value


def _list_sets(prefix: str, data: dict | None) -> Iterator[tuple[str, dict]]:
    """Yield each set of data settings, with the key at which it stands."""
    if data is None:
        return
    if not data["sets"]:
        yield prefix, data
    for name, settings in data["sets"].items():
        yield f"{prefix}.sets.{name}", settings


def _hash_files(
    key: str,
    path: str,
    hash_path: Callable[[str], str],
) -> bytes:
    """The hash of a set's files as bytes; empty without files."""
    try:
        return hash_path(path).encode()
    except OSError as error:
        reason = f"{error.filename or path} cannot be read: {error.strerror}"
        raise ConfigError(key, path, reason) from error
