"""Options: how a setting is declared, with its range and its role, and the error that becomes a one-line refusal."""

import math
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from enum import Enum, Flag, auto
from importlib.util import find_spec
from typing import Any

from tuneoff.config.elsewhere import ELSEWHERE, find_our_name

# No line of a refusal is longer than a few of the terminal's, whatever was typed.
LONGEST_VALUE = 300
# A longer word resembles none of ours, and comparing it takes seconds.
LONGEST_WORD = 60
ONE_LETTER_OFF = 0.85  # of difflib's ratio, for a name of usual length

# Of any whole number among the settings: rows, steps and tokens; above it something else breaks, and late.
LARGEST_NUMBER = 10**15

ABSENT = object()


class ConfigError(ValueError):
    """A setting that cannot be used: the key, the value given (if there is one), and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str):
        self.key = key
        self.value = value
        self.allowed = allowed
        written = shorten(key)
        if value is not ABSENT:
            written += f"={shorten(format_value(value))}"
        super().__init__(f"{written}: {allowed}")


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def shorten(text: str, most: int = LONGEST_VALUE) -> str:
    """A text as part of one line: what cannot be printed is written as its code, and a long one loses its middle."""
    if len(text) > most:
        tail = most // 3
        text = f"{text[: most - tail]}…{text[-tail:]}"
    return "".join(map(_printable, text))


def _printable(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


class Role(Flag):
    """What a setting is for. One without a role changes a run's result, and may be tuned."""

    INCIDENTAL = auto()  # changes no result: two runs that differ only here are the same run
    BUDGET = auto()  # how long a run trains; a run has one
    JUDGING = auto()  # on what and how a run is judged, so no tuning compares its values
    NOT_PREDICTED = auto()  # a prediction foresees the same memory whatever it is


NO_ROLE = Role(0)


def setting(default: Any, role: Role = NO_ROLE) -> Any:
    """Return a dataclass field without a range that says what it is for; a class stands for a new object of it."""
    metadata = {"role": role}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def option(
    default: Any,
    allowed: str,
    accepts: Callable[[Any], bool],
    role: Role = NO_ROLE,
    column: str | None = None,
) -> Any:
    """Return a dataclass field that knows its range; `None` always passes.

    Args:
        allowed: the range in words, beginning with `must`, for the refusal of a value outside it.
        accepts: whether a value lies in the range.
        column: the heading of its column in the report's table, for a setting that methods imply; it is shown where
            rows differ in it, and named in the caption where they agree.
    """
    metadata = {"allowed": allowed, "accepts": accepts, "role": role, "column": column}
    return field(default=default, metadata=metadata)


def at_least(default: float | str | None, low: float, role: Role = NO_ROLE) -> Any:
    """An option in [low, infinity); the default may be an interpolation."""
    return option(default, f"must be at least {low}", lambda value: low <= value < math.inf, role)


def above(
    default: float | None, low: float, role: Role = NO_ROLE, column: str | None = None
) -> Any:
    """An option in (low, infinity)."""
    allowed = f"must be above {low}"
    return option(default, allowed, lambda value: low < value < math.inf, role, column)


def fraction(default: float | None) -> Any:
    """An option in [0, 1)."""
    return option(default, "must be in [0, 1)", lambda value: 0 <= value < 1)


def one_of(
    default: str | None, *names: str, role: Role = NO_ROLE, column: str | None = None
) -> Any:
    """An option among a few words that cannot be an enum (because some are no identifiers)."""
    allowed = f"must be one of {', '.join(names)}"
    return option(default, allowed, names.__contains__, role, column)


def names(default: Any = None, role: Role = NO_ROLE) -> Any:
    """A list of names: Hydra's list, the word `all`, or a comma-separated string."""
    return field(default=default, metadata={"names": True, "role": role})


def find_settings(cls: Any, role: Role) -> tuple[str, ...]:
    """The keys of a dataclass's settings that have a role, in their order."""
    roles = {item.name: item.metadata.get("role", NO_ROLE) for item in fields(cls)}
    return tuple(key for key in roles if roles[key] & role)


def find_columns(cls: Any) -> dict[str, str]:
    """The headings of a dataclass's settings that are columns of the report, by key."""
    columns = {item.name: item.metadata.get("column") for item in fields(cls)}
    return {key: heading for key, heading in columns.items() if heading}


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Normalise name lists and refuse what lies outside a declared range.

    Raises:
        ConfigError: for the first option whose value is not allowed.
    """
    for item in fields(settings):
        key = prefix + item.name
        value = getattr(settings, item.name)
        if item.metadata.get("names"):
            if value is None and item.default is not None:
                raise ConfigError(key, None, "must name modules, or be the word all")
            setattr(settings, item.name, as_names(key, value))
        if type(value) is int and abs(value) > LARGEST_NUMBER:
            raise ConfigError(
                key, value, "must be at most 10^15: nothing here is counted that high"
            )
        accepts = item.metadata.get("accepts")
        if accepts and value is not None and not accepts(value):
            raise ConfigError(key, value, item.metadata["allowed"])


def as_names(key: str, value: Any) -> list[str] | None:
    """Return a list of names from a list or a comma-separated string; `None` stays.

    Raises:
        ConfigError: if it is neither, or holds an empty or a repeated name.
    """
    if value is None:
        return None
    written = value.split(",") if isinstance(value, str) else value
    if not isinstance(written, list | tuple):
        raise ConfigError(key, value, f"must be names, as in {key}=[one,two]")
    names = []
    for name in written:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(key, value, f"must be names, as in {key}=[one,two]")
        names.append(name.strip())
    if not names or len(set(names)) < len(names):
        raise ConfigError(key, value, "must hold at least one name, and none twice")
    if "all" in names and len(names) > 1:
        raise ConfigError(key, value, "all stands alone")
    return names


def check_package(key: str, value: Any, package: str, extra: str) -> None:
    """Refuse a setting whose package is not installed; looks for it without importing it.

    Raises:
        ConfigError: with the extra of ours that installs it.
    """
    if find_spec(package) is None:
        raise ConfigError(
            key, value, f"needs a package that is not installed: pip install 'tuneoff[{extra}]'"
        )


def suggest_nearest(word: str, known: Iterable[object]) -> str:
    """`; did you mean …?` where a known name is close to `word`, or is what others call it; else nothing."""
    ours = find_our_name(word)
    if ours is not None:
        return f"; did you mean {ours}?"
    if len(word) > LONGEST_WORD:
        return ""
    from difflib import get_close_matches

    close = get_close_matches(word, [str(name) for name in known], n=3)
    if not close:
        misspelt = get_close_matches(word, ELSEWHERE, n=1, cutoff=ONE_LETTER_OFF)
        close = list(filter(None, map(find_our_name, misspelt)))
    return f"; did you mean {' or '.join(close)}?" if close else ""
