"""Text formats of rows: JSON lines, JSON and CSV, read so that each row knows its line.

They are read here, because `datasets` infers types: it makes dates of answers such as 2020-01-31,
of a CSV's 007 a number, and of its NA nothing.
"""

import csv
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnreadableFile(ValueError):
    """A place in a file and what is wrong there."""


def decode_text(content: bytes, lines_before: int = 0) -> str:
    """Return UTF-8 text without a byte order mark.

    Args:
        content: the bytes.
        lines_before: how many lines of the file stand above them.

    Raises:
        UnreadableFile: the text is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = lines_before + content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        message = f"line {line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
        raise UnreadableFile(message) from error


def parse_json(text: str, lines_before: int = 0) -> Any:
    """Return the JSON value in a text.

    A number stays the text that it is: 18.50, and one of 5,000 digits too.

    Raises:
        UnreadableFile: the text is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        line = lines_before + error.lineno
        message = f"line {line}, column {error.colno}: {error.msg}"
        raise UnreadableFile(message) from error
    except RecursionError as error:
        raise UnreadableFile(f"from line {lines_before + 1} on: nested too deeply") from error


def read_json_lines(file: Iterable[bytes]) -> Iterator[tuple[dict, str]]:
    """Yield the rows of JSON lines, each with its place; blank lines are passed over."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            text = decode_text(line, number - 1)
            row = parse_json(text.rstrip(), number - 1)
            if not isinstance(row, dict):
                raise UnreadableFile(f"line {number}: not an object")
            yield row, f"line {number}"
    except (OSError, EOFError, lzma.LZMAError) as error:  # a broken archive
        raise UnreadableFile(f"line {number + 1}: {error}") from error


def read_json(file: BinaryIO) -> Iterator[tuple[dict, str]]:
    """Yield the rows of a JSON file, each with its place: a list of objects, or JSON lines."""
    content = file.read()
    first_byte = content.removeprefix(BYTE_ORDER_MARK).lstrip()[:1]
    if first_byte != b"[":
        yield from read_json_lines(content.splitlines())
        return
    rows = parse_json(decode_text(content))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UnreadableFile(f"item {number}: not an object")
        yield row, f"item {number}"


def read_csv(file: BinaryIO) -> Iterator[tuple[dict, str]]:
    """Yield the rows of a CSV file with a header, each with its place; every value stays text."""
    csv.field_size_limit(2**31 - 1)
    text = decode_text(file.read())
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in lines:
            if None in row or None in row.values():
                message = f"line {lines.line_num}: not as many fields as the header has"
                raise UnreadableFile(message)
            yield row, f"line {lines.line_num}"
    except csv.Error as error:
        raise UnreadableFile(f"after line {lines.line_num}: {error}") from error
