"""Words of ours as they are typed: quoted so that Hydra and OmegaConf read what a file says, and nothing else."""

import re
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# Ours whose values are texts, also where one looks like a number, a switch or null: by the end of the key.
TEXTS = re.compile(
    r"(.*\.)?(path|name|subset|revision|template|default_system|columns\.\w+|splits\.train|dir)"
    r"|adapter_path|push|llamafactory"
)
# What Hydra may read without quotes.
BARE = re.compile(r"[\w\-./:+%@]+", re.ASCII)
BEFORE_INTERPOLATION = re.compile(r"(\\*)\$\{")
BEFORE_QUOTE = re.compile(r"(\\*)('|\Z)")


@cache
def _create_parser() -> OverridesParser:
    return OverridesParser.create()


def read_typed(word: str) -> Any:
    """Return the value of a word of the command line as Hydra reads it.

    Raises:
        HydraException: it cannot be read.
    """
    return _create_parser().parse_override(f"key={word}").value()


def escape_references(value: str) -> str:
    """Return a value whose ${…} OmegaConf leaves as it is, where it reads it once."""
    return BEFORE_INTERPOLATION.sub(r"\1\1\\${", value)


def quote(key: str, value: str) -> str:
    """Return a value of a key as Hydra takes it for one text, number or list, and OmegaConf for no reference."""
    escaped = escape_references(value)
    is_text = TEXTS.fullmatch(key) is not None
    if value.startswith("[") and not is_text:
        return escaped if _reads_list(escaped) else quote_text(escaped)
    if is_text:
        return quote_unlike_text(escaped)
    return escaped if BARE.fullmatch(escaped) else quote_text(escaped)


def quote_unlike_text(value: str) -> str:
    """Return a text as Hydra takes it for one, in quotes where it would be something else without."""
    if not BARE.fullmatch(value):
        return quote_text(value)
    try:
        is_same = read_typed(value) == value
    except HydraException:
        is_same = False
    return value if is_same else quote_text(value)


def quote_text(value: str) -> str:
    """Return a value in quotes; Hydra takes backslashes for signs only before a quote."""
    # At its end stands the closing one.
    escaped = BEFORE_QUOTE.sub(_escape_quote, value)
    return f"'{escaped}'"


def _escape_quote(found: re.Match) -> str:
    backslashes = 2 * found[1]
    return f"{backslashes}\\'" if found[2] else backslashes


def _reads_list(value: str) -> bool:
    try:
        return isinstance(read_typed(value), list)
    except HydraException:
        return False
