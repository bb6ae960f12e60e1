"""The record's files: written whole or not at all, and read with nothing believed. Standard library only."""

import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import EACCES
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import Any

from tuneoff.record.schema import CURVE_POINTS, METRICS

log = logging.getLogger(__name__)
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
# What trackers can hold; as a tuple, since a union would be made anew for each of a record's values.
PLAIN = (int, float, str, bool)


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------- writing
def write_atomically(
    path: Path,
    content: str | bytes | Callable[[Path], object],
    private: bool = False,
) -> None:
    """Write a file whole: a reader sees the old file or the new one, never half of one.

    Args:
        content: text, which becomes UTF-8 with `?` for what has none; bytes; or a function that writes the path that
            it is called with.
        private: whether only this user may read and write the file, whatever the umask is.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`. A file that was there is untouched.
    """
    # Named by more than the process: on a shared disk, another machine may have the same number.
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.{token_hex(4)}")
    mode = 0o600 if private else 0o666  # less what the umask takes away
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            if isinstance(content, str):
                file.write(content.encode("utf-8", "replace"))
            elif isinstance(content, bytes):
                file.write(content)
        if callable(content):
            content(temporary)
        _settle(temporary, private)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
            error.filename2 = None
        raise


def _settle(path: Path, private: bool) -> None:
    """Close a file to others where it shall be, and wait until it is on the disk."""
    with path.open("rb+") as file:
        if private:
            os.fchmod(file.fileno(), 0o600)  # a function may have made the file anew
        os.fsync(file.fileno())


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Say of an OSError which file was written, where the system does not: a full disk has no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def describe_os_error(error: OSError, written: str = "output folder") -> str:
    """Where and why a file could not be read or written, in one line.

    Args:
        error: what the system says.
        written: what was being written, for an error that names no file, as that of a full disk.
    """
    return f"{error.filename or written}: {error.strerror or error}"


def write_json(path: Path, content: dict) -> None:
    """Write an object as JSON, atomically."""
    # A NaN is not JSON; a record with one must still be readable everywhere.
    write_atomically(path, json.dumps(replace_non_finite(content), indent=1, allow_nan=False))


def write_lines(path: Path, lines: list[dict]) -> None:
    """Write JSON lines, atomically."""
    write_atomically(path, "".join(map(format_line, lines)))


def format_line(line: dict) -> str:
    """A line of a JSON lines file, with its end."""
    return json.dumps(replace_non_finite(line), allow_nan=False) + "\n"


def replace_non_finite(value: Any) -> Any:
    """The same content with `None` for every NaN and infinity."""
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- reading
def read_json(path: Path) -> dict | None:
    """The object in `path`, or `None` where there is none that can be read; NaN and infinity are `None`."""
    try:
        content = replace_non_finite(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_section(path: Path, key: str) -> dict:
    """The object under a key of a JSON file; empty where there is none, or something else."""
    section = (read_json(path) or {}).get(key)
    return section if isinstance(section, dict) else {}


def read_metrics(folder: Path) -> Iterator[dict]:
    """Yield the lines of metrics.jsonl that are objects with a step; what else is there is passed over."""
    for line in _read_lines(folder):
        if line is not None:
            yield line


def find_bad_line(folder: Path) -> int | None:
    """The number of the first line of metrics.jsonl that is no object with a step; the last may be cut by a crash."""
    lines = list(_read_lines(folder))
    for number, line in enumerate(lines[:-1], 1):
        if line is None:
            return number
    return None


def _read_lines(folder: Path) -> Iterator[dict | None]:
    """The lines of metrics.jsonl; None for one that is no object with a step."""
    path = folder / METRICS
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            readable = isinstance(content, dict) and type(content.get("step")) is int
            yield content if readable else None


def set_aside_unreadable(path: Path) -> None:
    """Keep a JSON file that cannot be read under another name."""
    if path.exists() and read_json(path) is None:
        set_aside(path, "it is no JSON object")


def set_aside(path: Path, reason: str) -> Path | None:
    """Rename what cannot be read to `*.unreadable`, and say so; returns the new path, None where it must stay."""
    new_path = path.with_name(f"{path.name}.unreadable")
    number = 1
    while new_path.exists():
        number += 1
        new_path = path.with_name(f"{path.name}.unreadable{number}")
    try:
        path.rename(new_path)
    except OSError as error:
        log.warning("%s cannot be read (%s), nor set aside: %s", path, reason, error.strerror)
        return None
    log.warning("%s cannot be read (%s), and is kept as %s", path, reason, new_path.name)
    return new_path


# ---------------------------------------------------------------- what only this user may change
def cache_folder() -> Path:
    """The folder of what is kept between runs, there or not.

    `TUNEOFF_CACHE` if it is given, else `tuneoff` in `XDG_CACHE_HOME`, else `~/.cache/tuneoff`; for a user without a
    home, a folder of its own among the temporary ones.
    """
    chosen = os.environ.get("TUNEOFF_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if home.startswith("~"):
        return Path(gettempdir()) / f"tuneoff-{os.getuid()}"
    return Path(home) / "tuneoff"


def make_private_folder(folder: Path) -> None:
    """Make a folder in which only this user can change anything.

    Raises:
        PermissionError: the folder is there, and another user can change what is in it. It stays as it is, since it
            may be a folder that others are meant to use.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid():
        raise PermissionError(EACCES, "belongs to another user", str(folder))
    if state.st_mode & WRITABLE_BY_OTHERS:
        raise PermissionError(EACCES, "can be changed by other users; chmod go-w", str(folder))


def is_private(path: Path) -> bool:
    """Whether a file is there, belongs to this user, and no other can change it or put another in its place."""
    try:
        states = [path.stat(), path.parent.stat()]
    except OSError:
        return False
    mine = all(state.st_uid == os.getuid() for state in states)
    return mine and not any(state.st_mode & WRITABLE_BY_OTHERS for state in states)


# ---------------------------------------------------------------- shapes
def flatten(content: dict, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` as `{"a/b": 1}`; lists as text. What trackers can hold."""
    flat: dict = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}/"))
        elif value is None or isinstance(value, PLAIN):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = str(value)
    return flat


def thin_curve(points: list[dict], most: int = CURVE_POINTS) -> list[dict]:
    """At most `most` of `points`, evenly spread, the first and the last included.

    Evaluations come first: they are few, and a learning curve is made of them.
    """
    evaluations = _spread([point for point in points if "loss" not in point], most // 2)
    steps = _spread([point for point in points if "loss" in point], most - len(evaluations))
    return sorted(steps + evaluations, key=lambda point: point["step"])


def _spread(points: list[dict], most: int) -> list[dict]:
    if len(points) <= most:
        return points
    last = len(points) - 1
    indices = [round(index * last / (most - 1)) for index in range(most)]
    return [points[index] for index in indices]
