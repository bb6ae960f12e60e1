"""Files of rows (jsonl, json, csv, parquet), and to which split each row belongs."""

import gzip
import lzma
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, SingleSet, data_files, format_of
from tuneoff.data.parquet import read_parquet
from tuneoff.data.source_rows import SourceRow
from tuneoff.data.text_formats import (
    UnreadableFile,
    read_csv,
    read_json,
    read_json_lines,
)

Reader = Callable[[Any], Iterator[tuple[dict, str]]]  # of an open binary file
READERS: dict[str | None, Reader] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
}
OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
# A file of a folder belongs to the split whose word its name, or a folder above it, holds; the
# words are those of `datasets`.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def read_by_split(data: SingleSet, path: Path) -> dict[str, Iterable[SourceRow]]:
    """Return the rows of a file or folder by split: the row's own, or else that of its file's name.

    Raises:
        ConfigError: a row that cannot be read, or that names a split which has no role.
    """
    split_of_role = {role: getattr(data.splits, role) for role in SPLIT_WORDS}
    splits = [split for split in split_of_role.values() if split is not None]
    rows: dict[str, list[SourceRow]] = {split: [] for split in splits}
    split_of_word = map_words_to_splits(split_of_role)
    for file in data_files(path):
        role = role_from_name(file.relative_to(path))
        for row in read_file(data, file):
            split = split_of_role[role]
            own_split = row.values.get("split")
            if own_split:
                split = find_split(row, str(own_split), split_of_word, splits)
            if split is not None:
                rows[split].append(row)
    return {split: members for split, members in rows.items() if members}


def map_words_to_splits(split_of_role: dict[str, str | None]) -> dict[str, str | None]:
    """Return what a row's `split` may say, and which of the set's splits that is.

    Beside the splits' own names these are the usual words for a role. Where data.splits has
    another name for that role, the rows under a usual word are left alone: None.
    """
    split_of_word: dict[str, str | None] = {}
    for role, words in SPLIT_WORDS.items():
        has_usual_name = split_of_role[role] == role
        for word in words:
            split_of_word[word] = role if has_usual_name else None
    own_names = [split for split in split_of_role.values() if split is not None]
    return split_of_word | dict(zip(own_names, own_names, strict=True))


def find_split(
    row: SourceRow,
    own_split: str,
    split_of_word: dict[str, str | None],
    splits: list[str],
) -> str | None:
    """Return the split that a row names, in any case of letters; None for one that is left alone.

    Raises:
        ConfigError: data.splits does not have it.
    """
    for word in (own_split, own_split.lower()):
        if word in split_of_word:
            return split_of_word[word]
    value = reprlib.repr(row.values["split"])
    message = f"split={value}: data.splits names {', '.join(splits)} alone"
    raise ConfigError("data.path", row.location, message)


def role_from_name(path: Path) -> str:
    """Return the role that a file's name says, or the folder next to it; train where none does."""
    for part in reversed(path.parts):
        words = set(re.split(r"[^a-z]+", part.lower()))
        for role, role_words in SPLIT_WORDS.items():
            if words.intersection(role_words):
                return role
    return "train"


def read_file(data: SingleSet, path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a file.

    Raises:
        ConfigError: what cannot be read, with the line's number where there are lines.
    """
    kind = format_of(path)
    if kind == ".parquet":
        yield from read_parquet(data, path)
        return
    open_file = OPENERS.get(path.suffix.lower(), open)
    try:
        with open_file(path, "rb") as file:
            for row, place in READERS[kind](file):
                yield SourceRow(row, f"{path}: {place}")
    except UnreadableFile as error:
        raise ConfigError("data.path", path, str(error)) from error
    except (OSError, EOFError, lzma.LZMAError) as error:  # no permission, a broken archive
        first_line = str(error).partition("\n")[0]
        raise ConfigError("data.path", path, first_line) from error
