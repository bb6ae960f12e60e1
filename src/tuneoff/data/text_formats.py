"""Text formats of rows: JSON lines, JSON and CSV, read so that each row knows its line.

They are read here, because `datasets` infers types: it makes dates of answers such as 2020-01-31,
of a CSV's 007 a number, and of its NA nothing.
"""

import csv
import io
import json
import lzma
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from tuneoff.data.printable import list_columns

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WHITE_SPACE = re.compile(r"[ \t\n\r]*")
OTHER_SEPARATORS = (";", "\t", "|")  # than the comma, in a table that is called CSV
# How a line ends on which a JSON value begins that goes on below.
GOES_ON_BELOW = (b"{", b"[", b",")


class UnreadableFile(ValueError):
    """A place in a file and what is wrong there."""


class RepeatedName(ValueError):
    """A JSON object has a name twice: which of the values is meant?"""


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


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, of which the standard library would keep a name's last value alone.

    Raises:
        RepeatedName: a name stands twice in it.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = find_repeated(name for name, _ in pairs)
        raise RepeatedName(f"{', '.join(map(reprlib.repr, repeated))} twice in one object")
    return values


def find_repeated(names: Iterable[str]) -> list[str]:
    """Return the names that stand there more than once."""
    counts = Counter(names)
    return [name for name, count in counts.items() if count > 1]


# A number stays the text that it is: 18.50, and one of 5,000 digits too.
DECODER = json.JSONDecoder(parse_int=str, parse_float=str, object_pairs_hook=build_object)


def parse_json(
    text: str,
    start: int = 0,
    lines_before: int = 0,
) -> tuple[Any, int]:
    """Return the JSON value that begins at a position of a text, and where it ends.

    Args:
        text: the text.
        start: where in it the value begins, perhaps after white space.
        lines_before: how many lines of the file stand above the text.

    Raises:
        UnreadableFile: there is no JSON value, a name twice in an object, or too deep a nest.
    """
    start = skip_white_space(text, start)
    try:
        return DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        line = lines_before + error.lineno
        message = f"line {line}, column {error.colno}: {error.msg}"
        raise UnreadableFile(message) from error
    except RepeatedName as error:
        raise UnreadableFile(f"line {lines_before + line_of(text, start)}: {error}") from error
    except RecursionError as error:
        line = lines_before + line_of(text, start)
        raise UnreadableFile(f"from line {line} on: nested too deeply") from error


def parse_whole(text: str, lines_before: int = 0) -> Any:
    """Return the one JSON value in a text.

    Raises:
        UnreadableFile: as `parse_json`, or something follows the value.
    """
    value, end = parse_json(text, 0, lines_before)
    end = skip_white_space(text, end)
    if end < len(text):
        raise unreadable(text, end, "Extra data", lines_before)
    return value


def unreadable(text: str, position: int, message: str, lines_before: int = 0) -> UnreadableFile:
    """Return an error at a position of a text, as the standard library words it."""
    error = json.JSONDecodeError(message, text, position)
    line = lines_before + error.lineno
    return UnreadableFile(f"line {line}, column {error.colno}: {message}")


def skip_white_space(text: str, position: int) -> int:
    """Return the first position from `position` on that is no white space, as JSON has it."""
    match = WHITE_SPACE.match(text, position)
    return match.end() if match else position


def line_of(text: str, position: int) -> int:
    """Return the number of the line in which a position lies."""
    return text.count("\n", 0, position) + 1


def read_json_lines(file: Iterable[bytes]) -> Iterator[tuple[dict, str]]:
    """Yield the rows of JSON lines, each with its place; blank lines are passed over."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if not line.removeprefix(BYTE_ORDER_MARK).strip():
                continue
            text = decode_text(line, number - 1).rstrip()
            try:
                row = parse_whole(text, number - 1)
            except UnreadableFile as error:
                if line.rstrip().endswith(GOES_ON_BELOW):
                    hint = "in JSON lines an object stands on one line"
                    raise UnreadableFile(f"{error}; {hint}") from error
                raise
            if not isinstance(row, dict):
                raise UnreadableFile(f"line {number}: not an object")
            yield row, f"line {number}"
    except (OSError, EOFError, lzma.LZMAError) as error:  # a broken archive
        raise UnreadableFile(f"line {number + 1}: {error}") from error


def read_json(file: BinaryIO) -> Iterator[tuple[dict, str]]:
    """Yield the rows of a JSON file, each with its place.

    It holds a list of objects, one object, or after all JSON lines.
    """
    content = file.read()
    start = content.removeprefix(BYTE_ORDER_MARK).lstrip()
    first_line = start.partition(b"\n")[0].rstrip()
    if start.startswith(b"["):
        yield from read_json_list(decode_text(content))
    elif first_line.endswith(GOES_ON_BELOW):
        # One object over several lines; whether it is a row is seen by its columns.
        row = parse_whole(decode_text(content))
        if not isinstance(row, dict):
            raise UnreadableFile("line 1: not an object")
        yield row, "line 1"
    else:
        yield from read_json_lines(content.splitlines())


def read_json_list(text: str) -> Iterator[tuple[dict, str]]:
    """Yield the objects of a JSON list, one at a time, so that an error knows its line."""
    position = skip_white_space(text, text.index("[") + 1)
    number = 0
    while text[position : position + 1] != "]":
        if number > 0:
            if text[position : position + 1] != ",":
                raise unreadable(text, position, "Expecting ',' delimiter")
            position += 1
        number += 1
        row, position = parse_json(text, position)
        if not isinstance(row, dict):
            raise UnreadableFile(f"item {number}: not an object")
        yield row, f"item {number}"
        position = skip_white_space(text, position)
    end = skip_white_space(text, position + 1)
    if end < len(text):
        raise unreadable(text, end, "Extra data")


def read_csv(file: BinaryIO) -> Iterator[tuple[dict, str]]:
    """Yield the rows of a CSV file with a header, each with its place; every value stays text.

    A column may have no name (pandas writes its index so, and a trailing comma makes one); such
    values are kept under the empty name.
    """
    csv.field_size_limit(2**31 - 1)
    text = decode_text(file.read())
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    last_line = 0
    try:
        for fields in lines:
            last_line = lines.line_num
            if not fields:  # a blank line
                continue
            if not header:
                header = fields
                refuse_other_separator(header, last_line)
                refuse_repeated_columns(header, last_line)
                continue
            if len(fields) != len(header):
                message = f"line {last_line}: not as many fields as the header has"
                raise UnreadableFile(message)
            row: dict[str, str] = {}
            for name, value in zip(header, fields, strict=True):
                row[name] = row.get(name) or value
            yield row, f"line {last_line}"
    except csv.Error as error:
        raise UnreadableFile(f"after line {last_line}: {error}") from error


def refuse_other_separator(header: list[str], line: int) -> None:
    """Refuse a header that is one name with another separator in it: Excel writes `;` where `,` stands in numbers.

    Raises:
        UnreadableFile: with the separator.
    """
    for separator in OTHER_SEPARATORS:
        if len(header) == 1 and separator in header[0]:
            shown = reprlib.repr(separator)
            raise UnreadableFile(f"line {line}: fields are separated by {shown}; must be by ','")


def refuse_repeated_columns(header: list[str], line: int) -> None:
    """Refuse a header that has a name twice.

    Raises:
        UnreadableFile: naming the columns.
    """
    repeated = find_repeated(name for name in header if name)
    if repeated:
        raise UnreadableFile(f"line {line}: the header has {list_columns(repeated)} twice")
