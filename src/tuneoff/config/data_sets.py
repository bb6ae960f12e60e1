"""Data settings: one set, or several that are joined, and the second data that forgetting is measured on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tuneoff.config.data import SingleSet
from tuneoff.config.options import ABSENT, ConfigError, at_least, check_ranges, one_of

# What several sets have together; all else is said of each.
COMMON = ("name", "default_epochs", "default_steps", "default_max_length")
# What tells rows apart: two sets that agree in these have the same rows.
SOURCE = ("path", "subset", "revision", "splits")
CONCATENATE = "concatenate"


@dataclass
class Data(SingleSet):
    """One set, or in `sets` several, whose rows are joined."""

    sets: dict[str, SingleSet] = field(default_factory=dict)
    """Several sets, each a name with keys of its own, as data.sets.NAME.path; data=[gsm8k,alpaca] fills it in."""
    mixing: str = one_of(CONCATENATE, CONCATENATE, "interleave_under", "interleave_over")
    """Of several sets: every row once, or shares by weight until the first set is used up (under) or all are (over)."""
    mixing_seed: int = at_least(0, 0)
    """Fixes which rows interleaved sets give, and their order; never the run's seed, so that all seeds see the same."""

    def check(self, prefix: str = "data.") -> None:
        """Refuse what each set refuses, and sets that do not go together; `prefix` stands before the keys."""
        check_ranges(self, prefix)
        if not self.sets:
            self._check_alone(prefix)
            super().check(prefix)
            return
        self._check_common(prefix)
        for name, settings in self.sets.items():
            settings.check(f"{prefix}sets.{name}.")
        self._check_sources(prefix)
        self._check_weights(prefix)
        if all(settings.only_for for settings in self.sets.values()):
            name = next(iter(self.sets))
            value = self.sets[name].only_for
            allowed = "must be null for one set at least, to train on"
            raise ConfigError(f"{prefix}sets.{name}.only_for", value, allowed)

    def _check_alone(self, prefix: str) -> None:
        """Refuse of one set what only several have, and no set at all."""
        if not self.path and self.name == "":
            allowed = f"must hold a set, as {prefix.rstrip('.')}=[gsm8k,alpaca] or keys {prefix}sets.NAME.path"
            raise ConfigError(f"{prefix}sets", ABSENT, allowed)
        if not self.name:
            raise ConfigError(f"{prefix}name", ABSENT, "must be given")
        for key in ("weight", "only_for", "mixing", "mixing_seed"):
            value = getattr(self, key)
            if value != type(self).__dataclass_fields__[key].default:
                raise ConfigError(f"{prefix}{key}", value, f"is for several sets, in {prefix}sets")

    def _check_common(self, prefix: str) -> None:
        """Refuse beside several sets what must be said of each of them."""
        first = next(iter(self.sets))
        given = _find_changed(self, SingleSet(path=""), COMMON)
        for key, value in given.items():
            allowed = f"must be said of each of several sets, as {prefix}sets.{first}.{key}"
            raise ConfigError(f"{prefix}{key}", value, allowed)

    def _check_sources(self, prefix: str) -> None:
        """Refuse the same rows under two names."""
        names_by_source: dict[str, str] = {}
        for name, settings in self.sets.items():
            source = repr([getattr(settings, key) for key in SOURCE])
            other = names_by_source.setdefault(source, name)
            if other != name:
                allowed = f"is {prefix}sets.{other}.path already, and a set is taken once"
                raise ConfigError(f"{prefix}sets.{name}.path", settings.path, allowed)

    def _check_weights(self, prefix: str) -> None:
        """Refuse weights where every row is taken once."""
        for name, settings in self.sets.items():
            if settings.weight != 1 and self.mixing == CONCATENATE:
                allowed = f"needs {prefix}mixing=interleave_under or interleave_over"
                raise ConfigError(f"{prefix}sets.{name}.weight", settings.weight, allowed)

    @property
    def members(self) -> Mapping[str, SingleSet]:
        """The sets by name; of one set itself."""
        return self.sets or {self.name: self}

    def has_judge(self, split: str) -> bool:
        """Whether one of several sets is there for a split (validation or test) alone, so that the others need none."""
        return any(settings.only_for == split for settings in self.sets.values())

    @property
    def ships(self) -> bool:
        """Whether all of it ships with the package; each such set has rows of every split."""
        if not self.sets:
            return super().ships
        return all(settings.ships for settings in self.sets.values())


def _find_changed(
    settings: Any,
    plain: Any,
    passed: Collection[str] = (),
) -> dict[str, Any]:
    """The settings that differ from those of `plain`, by key, with those of nested ones in their places."""
    changed = {}
    for item in fields(plain):
        value = getattr(settings, item.name)
        default = getattr(plain, item.name)
        if item.name in passed or value == default:
            continue
        if not is_dataclass(default):
            changed[item.name] = value
            continue
        for key, nested in _find_changed(value, default).items():
            changed[f"{item.name}.{key}"] = nested
    return changed


@dataclass
class Forgetting:
    """Other data whose loss, before training and after, says what was lost elsewhere; null: none is measured."""

    data: Data | None = None
    """The other data: the name of a YAML in conf/data, or several, and the keys in it; null measures none."""
