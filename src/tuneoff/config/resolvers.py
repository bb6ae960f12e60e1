"""Resolvers: values of a method's YAML that depend on the rest of a config."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config.data import SingleSet
from tuneoff.config.paths import is_shipped


def choose_by_model(embedded: Any, other: Any, *, _root_: DictConfig) -> Any:
    """`${embedded:A,B}` in a YAML: A for the model that ships with the package and its short budget, else B."""
    path = _root_.model.path
    return embedded if path is not None and is_shipped(str(path)) else other


def describe_by_model(written: str) -> str | None:
    """Say what `${embedded:A,B}` comes to; None for any other text."""
    match = re.fullmatch(r"\$\{embedded:(.+),(.+)\}", written)
    return None if match is None else f"{match[2]} ({match[1]} for tuneoff:tiny)"


def name_by_path(path: str) -> str:
    """`${file_name:PATH}`: a file or folder without its endings, by which a record and its tables call it."""
    name = Path(path).name
    return name.partition(".")[0] or name or path


def join_sets(key: str, sets: DictConfig) -> Any:
    """`${joined_sets:KEY,SETS}`: what several sets have together: their names, or the largest value of `KEY`.

    Where any has none it is None, so that sets with a budget in epochs and in steps are trained in epochs.
    """
    if key == "name":
        return "+".join(map(str, sets))
    values = [settings[key] for settings in sets.values()]
    if not values:
        return SingleSet.__dataclass_fields__[key].default
    return None if None in values else max(values)


OmegaConf.register_new_resolver("joined_sets", join_sets, replace=True)
OmegaConf.register_new_resolver("file_name", name_by_path, replace=True)
OmegaConf.register_new_resolver("embedded", choose_by_model, replace=True)
