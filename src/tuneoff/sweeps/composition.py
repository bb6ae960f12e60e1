"""Composition of a sweep's points: by Hydra once for each choice of groups, then with a point's own values.

Hydra reads and merges every YAML anew for each point, which takes 0.14 seconds. Most points differ in values alone.
"""

import pickle
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from tuneoff.config import ConfigError, identify_run

BASES = 64  # choices of groups whose configs are kept at a time
PARSED = 1024  # overrides
# What the names of folders may hold that plain values do not change, or that is put in here.
FIXED_IN_DIR = re.compile(r"\$\{(hydra\.job\.config_name|now:[^{}]*)\}")
FILLED_IN_SUBDIR = re.compile(r"\$\{(method|identity:)\}")


def refuse_chdir(config: DictConfig) -> None:
    """Refuse to let Hydra change the working directory, from which paths are taken.

    Raises:
        ConfigError: `hydra.job.chdir` is true.
    """
    if config.hydra.job.chdir:
        allowed = "must be false: paths are taken from the folder in which the command is started"
        raise ConfigError("hydra.job.chdir", config.hydra.job.chdir, allowed)


@dataclass
class Base:
    """What Hydra composes of a choice of groups.

    Attributes:
        task: the config without Hydra's own part, pickled: it is copied for each point, and OmegaConf's deep copy
            takes four times as long.
        folder: of the sweep; None where its name depends on a point's values.
        subdir: the name of a job's folder in it, before `${method}` and `${identity:}` are filled in.
    """

    task: bytes
    folder: Path | None
    subdir: str


class Composer:
    """Composes the points of one sweep."""

    def __init__(self, loader: ConfigLoaderImpl, sweep_config: DictConfig):
        self.parser = OverridesParser.create(loader)
        self._loader = loader
        self._sweep_config = sweep_config
        self._find_base = lru_cache(maxsize=BASES)(self._compose_base)
        self._parse = lru_cache(maxsize=PARSED)(self.parser.parse_override)
        self._is_group = cache(loader.repository.group_exists)

    def compose(self, overrides: list[str]) -> DictConfig:
        """The whole config of a job with these overrides, by Hydra."""
        config = self._loader.load_sweep_config(self._sweep_config, overrides)
        with open_dict(config):
            config.hydra.job.num = 0
            config.hydra.job.id = "0"
        refuse_chdir(config)
        return config

    def compose_task(self, overrides: list[str]) -> DictConfig:
        """The task's part of the config of a job with these overrides."""
        choices, values = self._split(overrides)
        task = pickle.loads(self._find_base(choices).task)
        ConfigLoaderImpl._apply_overrides_to_config(values, task)
        return task

    def name_folder(self, overrides: list[str], task: DictConfig) -> Path:
        """The folder of the job whose overrides have composed to `task`."""
        choices, _ = self._split(overrides)
        base = self._find_base(choices)
        if base.folder is None:
            config = self.compose(overrides)
            return Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
        subdir = base.subdir.replace("${method}", task.method)
        return base.folder / subdir.replace("${identity:}", identify_run(task))

    def _compose_base(self, choices: tuple[str, ...]) -> Base:
        config = self.compose(list(choices))
        names = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        assert isinstance(names, dict)
        is_fixed = not interpolates(FIXED_IN_DIR, names["dir"])
        is_fixed = is_fixed and not interpolates(FILLED_IN_SUBDIR, names["subdir"])
        folder = Path(config.hydra.sweep.dir) if is_fixed else None
        with open_dict(config):
            config.pop("hydra")
        return Base(pickle.dumps(config), folder, names["subdir"])

    def _split(
        self,
        overrides: list[str],
    ) -> tuple[tuple[str, ...], list[Override]]:
        """The overrides that Hydra must compose with, and the plain values."""
        choices = []
        values = []
        for text in overrides:
            override = self._parse(text)
            if self._is_plain_value(override):
                values.append(override)
            else:
                choices.append(text)
        return tuple(choices), values

    def _is_plain_value(self, override: Override) -> bool:
        key = override.key_or_group
        if override.type is not OverrideType.CHANGE or override.package is not None:
            return False
        of_hydra = key.partition(".")[0] == "hydra"
        return not (of_hydra or self._is_group(key) or override.is_sweep_override())


def select_task_overrides(overrides: list[str]) -> list[str]:
    """The overrides of the task's own settings, without those of Hydra's part, which Hydra checks itself."""
    return [text for text in overrides if not re.match(r"[+~]*hydra[./@]", text)]


def interpolates(known: re.Pattern, name: str) -> bool:
    """Whether a name interpolates anything beside what is known."""
    return "${" in known.sub("", str(name))
