"""Files of rows: jsonl, json, csv and parquet, read so that each row knows its place.

Text formats are read here, because `datasets` infers types: it makes dates of answers such as 2020-01-31, of a CSV's
007 a number, and of its NA nothing. It reads parquet and the hub, and is imported for those alone.
"""

import csv
import gzip
import io
import json
import lzma
import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, Data, data_files, format_of
from tuneoff.data.hub import open_with_datasets
from tuneoff.data.source_rows import SourceRow

UNPACK: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
# A file of a folder belongs to the split whose word its name, or a folder above it, holds. As `datasets` has it.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def read_by_split(data: Data, place: Path) -> dict[str, Iterable[SourceRow]]:
    """The rows of a file or folder, under the split that the row itself names, or else its file's name.

    Raises:
        ConfigError: a row that cannot be read, or that names a split which has no role.
    """
    names = {role: getattr(data.splits, role) for role in WORDS}
    found: dict[str, Any] = {name: [] for name in names.values() if name is not None}
    # A row may also say a usual word; where data.splits has another name for that role, such rows are left alone.
    known = {
        word: role if names[role] == role else None
        for role, words in WORDS.items()
        for word in words
    }
    known |= {name: name for name in found}
    for file in data_files(place):
        role = split_from_name(file.relative_to(place))
        for item in read_file(data, file):
            name = names[role]
            if said := item.row.get("split"):
                word = next(
                    (word for word in (str(said), str(said).lower()) if word in known), None
                )
                if word is None:
                    raise ConfigError(
                        "data.path",
                        item.where,
                        f"split={reprlib.repr(said)}: data.splits names {', '.join(found)} alone",
                    )
                name = known[word]
            if name is not None:
                found[name].append(item)
    return {name: rows for name, rows in found.items() if rows}


def split_from_name(path: Path) -> str:
    """The role that a file's name says, or that of the folder next to it; train where nothing does."""
    for part in reversed(path.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for role, known in WORDS.items():
            if set(words) & set(known):
                return role
    return "train"


def read_file(data: Data, path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a file.

    Raises:
        ConfigError: what cannot be read, with the line's number where there are lines.
    """
    kind = format_of(path)
    if kind == ".parquet":
        rows = open_with_datasets(
            data, "parquet", streaming=True, data_files=str(path.absolute())
        ).read()["train"]
        yield from (
            SourceRow(item.row, f"{path}: row {number}") for number, item in enumerate(rows, 1)
        )
        return
    readers: dict = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv}
    try:
        with UNPACK.get(path.suffix.lower(), open)(path, "rb") as file:
            yield from (SourceRow(row, f"{path}: {place}") for row, place in readers[kind](file))
    except UnreadableFile as error:
        raise ConfigError("data.path", path, str(error)) from error
    except (
        OSError,
        EOFError,
        lzma.LZMAError,
    ) as error:  # a folder without leave to read, a broken archive
        raise ConfigError("data.path", path, str(error).partition("\n")[0]) from error


class UnreadableFile(ValueError):
    """A place in a file and what is wrong there."""


def decode_text(content: bytes, before: int = 0) -> str:
    """UTF-8 text without a byte order mark; `before` lines stand above it."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = before + content[: error.start].count(b"\n") + 1, content[error.start]
        raise UnreadableFile(
            f"line {line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
        ) from error


def parse_json(text: str, before: int = 0) -> Any:
    """The JSON value in a text; a number stays the text that it is, 18.50 and one of 5,000 digits too."""
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise UnreadableFile(
            f"line {before + error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise UnreadableFile(f"from line {before + 1} on: nested too deeply") from error


def read_json_lines(file: Iterable[bytes]) -> Iterator[tuple[dict, str]]:
    """Rows of JSON lines; blank lines are passed over."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = parse_json(decode_text(line, number - 1).rstrip(), number - 1)
            if not isinstance(row, dict):
                raise UnreadableFile(f"line {number}: not an object")
            yield row, f"line {number}"
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UnreadableFile(f"line {number + 1}: {error}") from error


def read_json(file: Any) -> Iterator[tuple[dict, str]]:
    """Rows of a JSON file: a list of objects, or after all JSON lines."""
    content = file.read()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from read_json_lines(content.splitlines())
        return
    for number, row in enumerate(parse_json(decode_text(content)), 1):
        if not isinstance(row, dict):
            raise UnreadableFile(f"item {number}: not an object")
        yield row, f"item {number}"


def read_csv(file: Any) -> Iterator[tuple[dict, str]]:
    """Rows of a CSV file with a header; every value stays the text that it is."""
    csv.field_size_limit(2**31 - 1)
    lines = csv.DictReader(io.StringIO(decode_text(file.read()), newline=""), strict=True)
    try:
        for row in lines:
            if None in row or None in row.values():
                raise UnreadableFile(f"line {lines.line_num}: not as many fields as the header has")
            yield row, f"line {lines.line_num}"
    except csv.Error as error:
        raise UnreadableFile(f"after line {lines.line_num}: {error}") from error
