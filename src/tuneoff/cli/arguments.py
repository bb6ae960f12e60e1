"""The command line before Hydra reads it: unknown flags refused, and a sweep's options made ready for our sweeper."""

import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf
from yaml import MarkedYAMLError

from tuneoff.config import ABSENT, ConfigError, find_method_options
from tuneoff.distributed.launch import get_rank, get_world_size

# Hydra's part in a rank beside the first: no folder, no file, and a log of what is wrong.
SILENT = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job_logging.handlers.file.filename=/dev/null",
    "hydra.job_logging.root.level=WARNING",
]


def check_flags() -> None:
    """Refuse unknown flags in one line, where argparse would print its usage too."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError("command line", ABSENT, f"{message}; see --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args()


def prepare_sweep_arguments(arguments: list[str]) -> list[str]:
    """The command line of a sweep, with our sweeper and with `galore_rank=choice(128)` for `galore_rank=128`.

    Hydra composes once without the swept values, and so with a method that may not have that option; a choice reaches
    the sweeper alone. Only options that not every method has are written so.
    """
    flags = get_args_parser().parse_args(arguments)
    chosen = read_primary_config(flags)
    by_itself = (
        "hydra.mode=MULTIRUN" in arguments or OmegaConf.select(chosen, "hydra.mode") == "MULTIRUN"
    )
    multirun = flags.multirun or by_itself
    if multirun and get_world_size() > 1:
        raise ConfigError(
            "WORLD_SIZE",
            get_world_size(),
            f"a sweep needs no launcher: leave it out, and write num_processes={get_world_size()}",
        )
    if not multirun:
        return [*arguments, *SILENT] if get_rank() else arguments
    plain = re.compile(rf"({'|'.join(find_method_options())})=([\w.+/-]+|\[[^\[\]()]*\])")
    arguments = [
        plain.sub(r"\1=choice(\2)", word) if plain.fullmatch(word) else word for word in arguments
    ]
    named = [word for word in arguments if word.startswith("hydra/sweeper=")]
    named += [item for item in chosen.get("defaults") or [] if "override hydra/sweeper" in item]
    # Hydra takes such a choice from a primary config alone, and config.yaml is the base of every sweep's.
    return arguments if named else [*arguments, "hydra/sweeper=grids"]


def read_primary_config(flags: Namespace) -> DictConfig:
    """The file of --config-name; empty where there is none that can be read (Hydra will say so)."""
    folders = [
        Path(flags.config_dir or flags.config_path or "."),
        Path(sys.argv[0]).parent / "conf",
    ]
    paths = [
        folder / f"{(flags.config_name or 'config').removesuffix('.yaml')}.yaml"
        for folder in folders
    ]
    try:
        found: Any = OmegaConf.load(next(path for path in paths if path.is_file()))
    except (StopIteration, OSError, MarkedYAMLError):
        found = None
    return found if OmegaConf.is_dict(found) else OmegaConf.create()
