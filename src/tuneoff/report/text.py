"""Text from records, made fit to be shown: no half or control characters, names on one line and cut."""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from tuneoff.record import mask_secrets

MOST_NAME_CHARACTERS = 80
MOST_LISTED = 6  # names in one sentence
MOST_CHARACTERS = 20_000  # of any other text
MOST_DEPTH = 50  # of what a record nests
NESTS = (dict, list)  # a tuple: `dict | list` would be made anew for each of a record's values
# Control characters other than tab and line ends, halves of characters, marks that turn the direction of text.
UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class TooDeepError(ValueError):
    """A record nests more deeply than any that a run writes."""


def clean_text(text: str) -> str:
    """Return a text with `\N{REPLACEMENT CHARACTER}` for every character that cannot be shown, cut where it is long."""
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "…"
    return UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", text)


@lru_cache(maxsize=10_000)
def cut_name(name: str, most: int = MOST_NAME_CHARACTERS) -> str:
    """Return a name on one line, of `most` characters at most; what is cut ends in a hash, so that names stay apart."""
    line = " ".join(clean_text(name[: most + 1]).split())
    if len(name) <= most:
        return line
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{line[: most - 8]}… {digest[:6]}"


def clean_value(value: Any, depth: int = 0) -> Any:
    """Return the content of a record with every text clean and every key a name.

    Raises:
        TooDeepError: it nests more than `MOST_DEPTH` deep.
    """
    if isinstance(value, str):
        return clean_text(value)
    if not isinstance(value, NESTS):
        return value
    if depth > MOST_DEPTH:
        raise TooDeepError(f"it is nested more than {MOST_DEPTH} deep")
    if isinstance(value, list):
        return [clean_value(item, depth + 1) for item in value]
    cleaned = {}
    for key, item in value.items():
        cleaned[cut_name(key)] = clean_value(item, depth + 1)
    return cleaned


def show_path(path: Path) -> str:
    """Return a path as a reader may see it: a folder's name can hold overrides, and with them a secret."""
    parts = [mask_secrets(part) for part in clean_text(str(path)).split("/")]
    return " ".join("/".join(parts).split())


def show_line(text: str) -> str:
    """Return a text as one line of a terminal, whatever it quotes."""
    return " ".join(clean_text(text).split())


def shorten_list(words: Sequence[str]) -> str:
    """Return `a, b, c`, and of many the first ones and how many more there are."""
    text = ", ".join(words[:MOST_LISTED])
    more = len(words) - MOST_LISTED
    return f"{text} and {more} more" if more > 0 else text


def join_names(names: Sequence[str]) -> str:
    """Return `a, b and c`, shortened where there are many."""
    if len(names) > MOST_LISTED:
        return shorten_list(names)
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def format_range(counts: set[int]) -> str:
    """Return `3 to 5`, or `3` where all counts are the same."""
    low = min(counts)
    high = max(counts)
    return str(low) if low == high else f"{low} to {high}"
