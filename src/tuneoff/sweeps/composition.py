"""Composition of a sweep's points: by Hydra once for each choice of groups, then with a point's own values.

Hydra reads and merges every YAML anew for each point, which takes 0.14 seconds. Most points differ in values alone.
"""

import pickle
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tuneoff.config import ConfigError, data_hash, identify_config, list_values
from tuneoff.sweeps.variations import Variations

BASES = 64  # choices of groups whose configs are kept at a time
PARSED = 1024  # overrides
CONFIG_NAME = "${hydra.job.config_name}"
METHOD = "${method}"
IDENTITY = "${identity:}"
HYDRAS_OWN = re.compile(r"\$\{[^}]*hydra[.:]")


def refuse_chdir(config: DictConfig) -> None:
    """Refuse to let Hydra change the working directory, from which paths are taken.

    Raises:
        ConfigError: `hydra.job.chdir` is true.
    """
    if config.hydra.job.chdir:
        allowed = "must be false: paths are taken from the folder in which the command is started"
        raise ConfigError("hydra.job.chdir", config.hydra.job.chdir, allowed)


@dataclass
class FolderName:
    """How a job's folder is named, with interpolations of the task's own settings."""

    sweep: str
    job: str

    def fill(self, method: str, identity: str) -> "FolderName":
        """The name with what every sweep's has."""
        names = []
        for name in (self.sweep, self.job):
            names.append(name.replace(METHOD, method).replace(IDENTITY, identity))
        return FolderName(*names)

    @property
    def interpolates(self) -> bool:
        """Whether there is something left to fill in."""
        return "${" in self.sweep + self.job

    def resolve(self, task: DictConfig) -> "FolderName":
        """The name with the values of a task."""
        names = DictConfig({"sweep": self.sweep, "job": self.job}, parent=task)
        return FolderName(str(names.sweep), str(names.job))

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self.sweep) / self.job


@dataclass
class Base:
    """What Hydra composes of a choice of groups.

    Attributes:
        task: the config without Hydra's own part, pickled: it is copied for each point, and OmegaConf's deep copy
            takes four times as long.
        variations: the same, of which points are read without a copy.
        folder: how a job's folder is named; None where that depends on Hydra's own part of each job's config.
    """

    task: bytes
    variations: Variations
    folder: FolderName | None


@dataclass
class ComposedPoint:
    """What a point's overrides have composed to.

    Attributes:
        overrides: the point's.
        settings: an object of its method's composed class, whose values are not checked yet; checking uses it up.
        config: the same as plain values, as a record has them.
    """

    overrides: list[str]
    settings: Any
    config: dict[str, Any]


class Composer:
    """Composes the points of one sweep."""

    def __init__(self, loader: ConfigLoaderImpl, sweep_config: DictConfig):
        self.parser = OverridesParser.create(loader)
        self._loader = loader
        self._sweep_config = sweep_config
        self._find_base = lru_cache(maxsize=BASES)(self._compose_base)
        self._parse = lru_cache(maxsize=PARSED)(self.parser.parse_override)
        self._is_group = cache(loader.repository.group_exists)
        # Of one plan alone: jobs are started long after, and look again.
        self._hash_path = cache(data_hash)

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

    def compose_point(self, overrides: list[str]) -> ComposedPoint:
        """The settings of a job with these overrides.

        Raises:
            ConfigError: a key that cannot be.
            ConfigCompositionException: what Hydra refuses.
        """
        choices, values = self._split(overrides)
        settings = self._find_base(choices).variations.read(values)
        return ComposedPoint(overrides, settings, list_values(settings))

    @property
    def subdir(self) -> str:
        """How the folder of a job within its sweep's is named, as it is written."""
        sweep = OmegaConf.to_container(self._sweep_config.hydra.sweep, resolve=False)
        assert isinstance(sweep, dict)
        return str(sweep["subdir"])

    def identify(self, point: ComposedPoint) -> str:
        """Which run a job is.

        Raises:
            ConfigError: a file of the data that cannot be read.
        """
        return identify_config(point.config, type(point.settings), self._hash_path)

    def name_folder(self, point: ComposedPoint, identity: str) -> Path:
        """The folder of a job, of which `identity` says which run it is."""
        choices, values = self._split(point.overrides)
        base = self._find_base(choices)
        if base.folder is None:
            return self._name_by_hydra(point.overrides)
        name = base.folder.fill(point.config["method"], identity)
        if not name.interpolates:
            return name.path
        try:
            with base.variations.change(values) as task:
                return name.resolve(task).path
        except OmegaConfBaseException:
            return self._name_by_hydra(point.overrides)  # raises the same, by the key

    def _name_by_hydra(self, overrides: list[str]) -> Path:
        """The folder of a job with these overrides, of its whole config."""
        config = self.compose(overrides)
        return Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir

    def _compose_base(self, choices: tuple[str, ...]) -> Base:
        config = self.compose(list(choices))
        sweep = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        assert isinstance(sweep, dict)
        config_name = str(config.hydra.job.config_name)
        names = [str(sweep[key]).replace(CONFIG_NAME, config_name) for key in ("dir", "subdir")]
        is_tasks_own = not any(HYDRAS_OWN.search(name) for name in names)
        folder = FolderName(*names) if is_tasks_own else None
        with open_dict(config):
            config.pop("hydra")
        return Base(pickle.dumps(config), Variations(config), folder)

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
