"""The command line before Hydra reads it: a sweep's options made ready for our sweeper, by what its file says."""

import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from tuneoff.cli.own_yamls import list_body_words, read_own_yaml
from tuneoff.cli.sweep_folder import DIR, name_sweep_folder
from tuneoff.cli.typed_words import FOLDER_KEYS, expand_home, put_keys_together
from tuneoff.config import ConfigError, find_method_options
from tuneoff.config.paths import is_file
from tuneoff.config.set_lists import refuse_listed_choices, write_as_choices
from tuneoff.distributed.launch import get_rank, get_world_size

# Hydra's part in a rank beside the first: no folder, no file, and a log of what is wrong.
SILENT = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job_logging.handlers.file.filename=/dev/null",
    "hydra.job_logging.root.level=WARNING",
]
SEARCH_PATH = "hydra.searchpath="
# A word, or a list of words, that sweeps nothing.
PLAIN_VALUE = r"[\w.+/-]+|\[[^\[\]()]*\]"
# Groups of which a job's choice says which keys there are below them.
CHOICES = ("model", "data", "forgetting.data")


def prepare_sweep_arguments(arguments: list[str]) -> list[str]:
    """The command line with lists of data sets as Hydra's choices; of a sweep ready for our sweeper.

    It is named, and `galore_rank=128` is written `galore_rank=choice(128)`: Hydra composes once without the swept
    values, and so with a method that may not have that option; a choice reaches the sweeper alone.
    """
    arguments = write_as_choices(arguments)
    flags = get_args_parser().parse_args(arguments)
    primary_config = read_primary_config(flags)
    arguments += list_home_words(arguments, primary_config)
    refuse_listed_choices(primary_config.get("defaults") or [])
    sweeps_by_itself = OmegaConf.select(primary_config, "hydra.mode") == "MULTIRUN"
    is_sweep = flags.multirun or sweeps_by_itself or "hydra.mode=MULTIRUN" in arguments
    if not is_sweep:
        return [*arguments, *SILENT] if get_rank() else arguments
    ranks = get_world_size()
    if ranks > 1:
        allowed = f"a sweep needs no launcher: leave it out, and write num_processes={ranks}"
        raise ConfigError("WORLD_SIZE", ranks, allowed)
    prepared = write_for_sweeper(arguments, primary_config)
    # Else, where Hydra finds a fault, it takes a file that sweeps by itself for a run, and refuses the swept values.
    if not flags.multirun:
        prepared.insert(0, "--multirun")
    # Hydra takes such a choice from a primary config alone, and config.yaml is the base of every sweep's.
    if not names_sweeper(arguments, primary_config):
        prepared.append("hydra/sweeper=grids")
    has_name = flags.config_name not in (None, "config", "config.yaml")
    if not has_name and not any(word.startswith(DIR) for word in arguments):
        prepared.append(DIR + name_sweep_folder(arguments))
    return prepared


def write_for_sweeper(arguments: Sequence[str], primary_config: DictConfig) -> list[str]:
    """The words with a choice of one value for the settings that not every job may have.

    These are the options that not every method has, and what a model, a set or the second text has where it is swept.
    """
    heads = [re.escape(option) + r"(?:\.[\w.]+)?" for option in find_method_options()]
    for group in CHOICES:
        if is_swept(group, arguments, primary_config):
            heads.append(re.escape(group) + r"\.[\w.]+")
    plain_option = re.compile(rf"({'|'.join(heads)})=({PLAIN_VALUE})")
    written = []
    for word in arguments:
        match = plain_option.fullmatch(word)
        if match is None:
            written.append(word)
            continue
        key, value = match.groups()
        # Hydra's choice() takes no null, and writes a quoted one without its quotes.
        choice = "'null'" if value == "null" else value
        written.append(f"{key}=choice({choice})")
    return written


def is_swept(group: str, arguments: Sequence[str], primary_config: DictConfig) -> bool:
    """Whether the command line, or else the sweep's file, gives the jobs several choices of a group, or may."""
    values = [word.partition("=")[2] for word in arguments if word.startswith(f"{group}=")]
    if values:
        return not re.fullmatch(PLAIN_VALUE, values[-1])
    sweeper = OmegaConf.select(primary_config, "hydra.sweeper") or {}
    swept = [sweeper.get("params"), *(sweeper.get("grids") or ())]
    return any(isinstance(item, Mapping) and group in item for item in swept)


def names_sweeper(arguments: list[str], primary_config: DictConfig) -> bool:
    """Whether the command line or the sweep's file chooses a sweeper."""
    if any(word.startswith("hydra/sweeper=") for word in arguments):
        return True
    defaults = primary_config.get("defaults") or []
    return any("override hydra/sweeper" in item for item in defaults)


def find_config_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders in which a command line's configs are looked for, the first that has a file counts."""
    folders = [own_config_folder()]
    for word, value in pairwise(arguments):
        if word in ("-cd", "--config-dir"):
            folders.append(Path(value))
    for word in arguments:
        if word.startswith("--config-dir="):
            folders.append(Path(word.partition("=")[2]))
        if word.startswith(SEARCH_PATH):
            listed = word.removeprefix(SEARCH_PATH).strip("[]").split(",")
            folders += [Path(entry.strip().removeprefix("file://")) for entry in listed]
    return folders


def own_config_folder() -> Path:
    """Return the folder of configs beside the program."""
    return Path(sys.argv[0]).parent / "conf"


def read_primary_config(flags: Namespace) -> DictConfig:
    """The file of --config-name; empty where there is none (Hydra will say so).

    Raises:
        ConfigError: a file of the user's own that cannot be read, or does not begin with all settings.
    """
    name = (flags.config_name or "config").removesuffix(".yaml")
    given_folder = Path(flags.config_dir or flags.config_path or ".")
    own_folder = own_config_folder()
    for folder in (given_folder, own_folder):
        path = folder / f"{name}.yaml"
        if not is_file(path):
            continue
        # Without a flag no file of the working folder is read.
        if folder is own_folder or flags.config_dir or flags.config_path:
            return read_own_yaml(path, (given_folder, own_folder))
    return OmegaConf.create()


def list_words_of_file(arguments: list[str]) -> list[str]:
    """What the file of --config-name says, as words of a command line; nothing where none is named, or can be read."""
    try:
        flags = get_args_parser().parse_args(put_keys_together(arguments))
        content = read_primary_config(flags) if flags.config_name else OmegaConf.create()
    except ConfigError:
        return []
    plain = OmegaConf.to_container(content, resolve=False)
    assert isinstance(plain, dict)
    return list_body_words(plain)


def list_home_words(arguments: Sequence[str], primary_config: DictConfig) -> list[str]:
    """The words that say again, as Hydra reads it, what a primary config has of folders that begin with `~`."""
    content = OmegaConf.to_container(primary_config, resolve=False)
    words = []
    for key in FOLDER_KEYS:
        value: Any = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        is_written = any(word.lstrip("+").startswith(f"{key}=") for word in arguments)
        if isinstance(value, str) and value.startswith("~") and not is_written:
            words += expand_home([f'{key}="{value}"'])
    return words
