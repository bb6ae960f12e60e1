"""Resolvers: values of a method's YAML that depend on the rest of a config."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config.data import SingleSet
from tuneoff.config.paths import exists, expand_user, is_file, is_folder, is_shipped


def choose_by_model(embedded: Any, other: Any, *, _root_: DictConfig) -> Any:
    """`${embedded:A,B}` in a YAML: A for the model that ships with the package and its short budget, else B."""
    path = _root_.model.path
    return embedded if path is not None and is_shipped(str(path)) else other


def describe_by_model(written: str) -> str | None:
    """Say what `${embedded:A,B}` comes to, or `${of_subset:PATH,SUBSET,VALUE}`; None for any other text."""
    by_source = re.fullmatch(r"\$\{of_subset:.+,(.+)\}", written)
    if by_source is not None:
        return by_source[1]
    match = re.fullmatch(r"\$\{embedded:(.+),(.+)\}", written)
    if match is None:
        return None
    shipped, usual = match.groups()
    return usual if shipped == usual else f"{usual} ({shipped} for tuneoff:tiny)"


def name_by_path(path: str) -> str:
    """`${file_name:PATH}`: a file or folder without its endings, by which a record and its tables call it."""
    name = Path(path).name
    return name.partition(".")[0] or name or path


def choose_by_source(path: str, subset: str, value: Any) -> Any:
    """`${of_subset:PATH,SUBSET,VALUE}`: VALUE where PATH is a set of the hub or a copy that has the subset.

    Files of one's own have no subsets: there it is False in place of True, else None.
    """
    root = expand_user(path)
    if not exists(root) or (is_folder(root) and holds_subset(root, subset)):
        return value
    return False if value is True else None


def holds_subset(folder: Path, subset: str) -> bool:
    """Whether a folder is laid out as a set of the hub is, with this subset."""
    if is_folder(folder / subset):
        return True
    card = folder / "README.md"
    if not is_file(card):
        return False
    return f"config_name: {subset}\n" in card.read_text(errors="replace")


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
OmegaConf.register_new_resolver("of_subset", choose_by_source, replace=True)
OmegaConf.register_new_resolver("embedded", choose_by_model, replace=True)
