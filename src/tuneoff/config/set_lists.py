"""Lists of data sets: `data=[gsm8k,alpaca]` is the choice `data=gsm8k+alpaca`, which composes each set's YAML.

`data=[talks:json,sums:json]` takes a YAML under other names, so that several files can be named on the command line.
Hydra finds such a choice in a source of configs of ours, on the command line, in a sweep, and in a defaults list.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from tuneoff.config.options import ConfigError

# Beside the method of this name, `list` is no type for mypy.
Names = list[str]
SCHEME = "setlists"
GROUPS = ("data", "forgetting.data")
ENTRY = r"[\w-]+(?::[\w-]+)?"  # a name, perhaps with that of its YAML
JOINED = re.compile(rf"((?:forgetting\.)?data)/({ENTRY}(?:\+{ENTRY})+)(?:\.yaml)?")
LISTED = re.compile(r"\[([^\[\]]*)\]")


def write_as_choices(arguments: Sequence[str]) -> list[str]:
    """The words of a command line with `data=gsm8k+alpaca` for `data=[gsm8k,alpaca]`, in a sweep's list too.

    Raises:
        ConfigError: a list that is empty, or has a set twice or something that is no name of a YAML.
    """
    return [_write_as_choice(word) for word in arguments]


def _write_as_choice(word: str) -> str:
    group, equals, value = word.partition("=")
    if not equals or group not in GROUPS:
        return word
    return f"{group}={LISTED.sub(lambda match: _join_names(group, match[1]), value)}"


def _join_names(group: str, listed: str) -> str:
    """`gsm8k+alpaca` for `gsm8k, alpaca`."""
    names = [name.strip(" '\"") for name in listed.split(",")]
    check_names(group, names)
    return "+".join(names)


def refuse_listed_choices(defaults: Iterable) -> None:
    """Refuse a list of sets in the defaults of a YAML, whose keys Hydra would put over each other.

    Raises:
        ConfigError: with what to write.
    """
    for item in defaults:
        for key, value in item.items() if isinstance(item, Mapping) else ():
            group = str(key).removeprefix("override ").strip(" /")
            if group in GROUPS and not isinstance(value, str) and isinstance(value, Sequence):
                names = [str(name) for name in value]
                allowed = f"is written {group}: {'+'.join(names)} in a defaults list"
                raise ConfigError(group, names, allowed)


def check_names(group: str, names: Sequence[str]) -> None:
    """Refuse names that cannot be a list of sets.

    Raises:
        ConfigError: one of them stands there twice, or is no name of a YAML.
    """
    taken = Counter(name.partition(":")[0] for name in names)
    for name in names:
        if not re.fullmatch(ENTRY, name):
            allowed = (
                f"each must be the name of a YAML in conf/data; files are given by {group}=[a:json,b:json] "
                f"{group}.sets.a.path=FILE {group}.sets.b.path=FILE, or by {group}.sets in a YAML"
            )
            raise ConfigError(group, list(names), allowed)
    for name, count in taken.items():
        if count > 1:
            raise ConfigError(
                group, list(names), f"{name} stands there twice, and a set is taken once"
            )


class SetListSource(ConfigSource):
    """The configs `data/A+B`, each of which puts the YAMLs of its sets below `data.sets`."""

    @staticmethod
    def scheme() -> str:
        """How the search path names this source."""
        return SCHEME

    def available(self) -> bool:
        """Always: nothing is read."""
        return True

    def is_group(self, config_path: str) -> bool:
        """No: the groups are those of the files."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether a path names several sets."""
        return JOINED.fullmatch(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> Names:
        """Nothing: there is one for each choice of sets."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config of several sets: its defaults list has a YAML for each.

        Raises:
            ConfigError: a set stands there twice.
        """
        match = JOINED.fullmatch(config_path)
        assert match is not None
        names = match[2].split("+")
        check_names(match[1], names)
        defaults: list = ["sets"]
        for entry in names:
            name, _, choice = entry.partition(":")
            defaults.append({f"/data@sets.{name}": choice or name})
        config = OmegaConf.create({"defaults": [*defaults, "_self_"]})
        return ConfigResult(
            provider=self.provider, path=self.full_path(), config=config, header={"package": None}
        )


class SetListSearchPath(SearchPathPlugin):
    """Puts the lists of sets at the end of Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them."""
        search_path.append(provider="tuneoff", path=f"{SCHEME}://")
