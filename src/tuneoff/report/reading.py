"""Reading: finds records on disk and believes none of them. What is half-written or foreign costs a line."""

import json
import os
import stat
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from tuneoff import record
from tuneoff.report.records import LARGEST_DRAWN, PAUSED, Curve, ReportError, Run, as_number
from tuneoff.report.text import TooDeepError, clean_value, cut_name, show_line, show_path

RECORD_FILES = frozenset((record.RUN, record.RESULT, record.PREDICTION))
STATUSES = (*record.RESULTS, *record.RETRIED)
CountedTable = tuple[np.ndarray, int]  # (lines, keys), and how many lines were left out
MOST_BYTES = 64 * 2**20  # of a record: a run writes a few hundred kilobytes
LARGEST_SEED = 2**64


def read_records(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return every record under `folders`, and a line for each file that was skipped.

    Sorted by content rather than by time or by the order of `folders`, so that the same records give the same report.

    Raises:
        ReportError: a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"{show_path(folder)}: no such folder")
    runs: list[Run] = []
    skipped: list[str] = []
    for folder in find_run_folders(folders, skipped):
        runs.extend(_read_folder(folder, skipped))
    runs.sort(key=lambda run: (run.method, run.seed, run.folder))
    return runs, skipped


# ---------------------------------------------------------------- folders
def find_run_folders(roots: Sequence[Path], skipped: list[str]) -> list[Path]:
    """Return the folders at or below `roots` that hold a record, each once, however many links lead to it.

    What lies inside a run's folder is not looked at. A line in `skipped` says what could not be looked at.
    """
    visited: set[tuple[int, int]] = set()
    run_folders: list[Path] = []
    # What is reached without a link comes first, so that a run has its own path where it has one.
    waiting = sorted(roots)
    while waiting:
        links: list[Path] = []
        for root in waiting:
            links += _walk_folder(root, visited, run_folders, skipped)
        waiting = sorted(links)
    return sorted(run_folders)


def _walk_folder(
    root: Path,
    visited: set[tuple[int, int]],
    run_folders: list[Path],
    skipped: list[str],
) -> list[Path]:
    """Add what was not visited yet below `root` to `run_folders`; returns the links to other folders."""

    def note_error(error: OSError) -> None:
        skipped.append(_skip_line(Path(error.filename), error.strerror or "not readable"))

    links: list[Path] = []
    for path, folders, files in os.walk(root, onerror=note_error):
        try:
            status = os.stat(path)
        except OSError:  # gone since it was listed
            folders.clear()
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in visited or RECORD_FILES & set(files):
            folders.clear()
            if identity not in visited:
                run_folders.append(Path(path))
            visited.add(identity)
            continue
        visited.add(identity)
        folders.sort()
        children = [Path(path, name) for name in folders]
        links += filter(os.path.islink, children)
        for name in sorted(files):
            if not os.path.exists(Path(path, name)):
                skipped.append(_skip_line(Path(path, name), "a link to nothing"))
    return links


def _skip_line(path: Path, reason: str) -> str:
    return show_line(f"{show_path(path)}: skipped, {reason}")


# ---------------------------------------------------------------- records
def _read_folder(folder: Path, skipped: list[str]) -> Iterator[Run]:
    """The prediction of a folder, and its run: as its result says, else as far as run.json and its metrics came."""
    path = show_path(folder)
    prediction = _load_record(folder / record.PREDICTION, skipped)
    if prediction is not None:
        yield Run(path, prediction, "predicted")
    result = _load_record(folder / record.RESULT, skipped)
    if result is not None and result.get("status") in STATUSES:
        points = result.pop("curve", None)
        yield Run(path, result, _read_status(result), _read_curve(points, result))
        return
    if result is not None:
        skipped.append(_skip_line(folder / record.RESULT, _describe_status(result)))
    started = _load_record(folder / record.RUN, skipped)
    if started is None:
        return
    if prediction is None or (folder / record.METRICS).exists():
        status = "running" if record.is_locked(folder) else "interrupted"
        points = record.thin_curve(_read_metrics(folder, skipped))
        yield Run(path, started, status, _read_curve(points, started))


def _read_status(result: dict) -> str:
    """The status of a result, whose interruption may have been a pause."""
    status = result["status"]
    is_paused = status == "interrupted" and as_number(result.get("paused_after")) is not None
    return PAUSED if is_paused else status


def _describe_status(result: dict) -> str:
    status = result.get("status")
    if status is None:
        return "it has no status"
    return f"its status is {cut_name(str(status))!r}, which no run has"


def _read_metrics(folder: Path, skipped: list[str]) -> list[dict]:
    """The lines of an unfinished run's metrics.jsonl that have a step."""
    path = folder / record.METRICS
    if not path.is_file():  # nor a pipe, which would never end
        return []
    try:
        lines = record.read_metrics(folder)
        return [line for line in lines if as_number(line.get("step")) is not None]
    except (OSError, ValueError, RecursionError) as error:
        skipped.append(_skip_line(path, f"not readable ({type(error).__name__})"))
        return []


def _load_record(path: Path, skipped: list[str]) -> dict | None:
    """The record in `path`, its secrets masked; None, and a line in `skipped` unless it is simply not there."""
    try:
        content = _parse_file(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, ReportError) else _describe_failure(error)
        skipped.append(_skip_line(path, reason))
        return None
    reason = _find_foreign(content)
    if reason is None:
        # Of a curve only numbers are read, and it holds nine tenths of the values: cleaning it would take seconds.
        curve = content.pop("curve", None)
        try:
            content = record.mask_record(clean_value(content))
            content["curve"] = curve
        except TooDeepError as error:
            reason = str(error)
    if reason:
        skipped.append(_skip_line(path, reason))
        return None
    content["method"] = cut_name(content["method"])
    _settle_error(content, path, skipped)
    return content


def _parse_file(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        ReportError: it is no file, or too large for a record.
        OSError, ValueError, RecursionError: it cannot be read as JSON.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ReportError("not a file")
    if status.st_size > MOST_BYTES:
        raise ReportError(f"larger than {MOST_BYTES // 2**20} MiB, which no record is")
    return json.loads(path.read_bytes())


def _describe_failure(error: Exception) -> str:
    return f"not readable as JSON ({type(error).__name__})"


def _settle_error(content: dict, path: Path, skipped: list[str]) -> None:
    """Make an error that is no object one, with a line."""
    error = content.get("error")
    if error is not None and not isinstance(error, dict):
        content["error"] = {"message": str(error)}
        skipped.append(show_line(f"{show_path(path)}: its error is no object, and shown as text"))


def _find_foreign(content: Any) -> str | None:
    """Why this is no record of ours, or None if it is one."""
    if not isinstance(content, dict):
        return "not an object"
    version = content.get("schema_version")
    if version != record.SCHEMA_VERSION:
        text = cut_name(str(version), 20)
        return f"its schema_version is {text}, and this report reads {record.SCHEMA_VERSION}"
    method = content.get("method")
    if not isinstance(method, str) or not isinstance(content.get("config"), dict):
        return "not a run's record: it has no method or no config"
    if not cut_name(method):
        return "its method has no name"
    seed = content.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        return "its seed is not a whole number"
    if abs(seed) >= LARGEST_SEED:
        return "its seed has more than 64 bits"
    return None


# ---------------------------------------------------------------- learning curves
def _read_curve(points: Any, content: dict) -> Curve:
    """Arrays from the record's lines; a line without a value to draw is left out, and counted."""
    lines = points if isinstance(points, list) else []
    lines = [line for line in lines if isinstance(line, dict)]
    train, train_skipped = _read_columns(lines, "step", "tokens", "step_seconds", "loss")
    validation, validation_skipped = _read_columns(lines, "step", "validation_loss")
    throughput = content.get("throughput")
    seconds = throughput.get("train_seconds") if isinstance(throughput, dict) else None
    train[:, 2] = _sum_seconds(train, _drawable_number(seconds))
    memory = content.get("memory")
    on_device = isinstance(memory, dict) and memory.get("measure") == "allocated"
    in_use, _ = _read_columns(lines, "step", "allocated_gib" if on_device else "resident_gib")
    second_set, second_set_skipped = _read_columns(lines, "step", "second_set_loss")
    not_drawn = train_skipped + validation_skipped + second_set_skipped
    return Curve(train, validation, not_drawn, second_set, in_use)


def _sum_seconds(train: np.ndarray, total: float | None) -> np.ndarray:
    """Seconds of training up to each point, (steps,).

    A thinned curve has lost the steps in between: each kept step stands for those since the last one, and the sum is
    set to the measured training time.
    """
    steps = np.diff(train[:, 0], prepend=0)
    seconds = np.cumsum(train[:, 2] * steps)
    if total and len(seconds) and seconds[-1] > 0:
        seconds *= total / seconds[-1]
    return seconds


def _read_columns(lines: list[dict], *keys: str) -> CountedTable:
    """(lines, keys) of the lines that have all keys, the rarest one last; how many of them hold what is no number."""
    take = itemgetter(*keys)
    candidates = [line for line in lines if keys[-1] in line]
    try:
        rows = list(map(take, candidates))
    except KeyError:  # of a torn or foreign record: ours have all of them, or not the last
        rows = [take(line) for line in candidates if line.keys() >= set(keys)]
    try:
        table = np.array(rows)
    except ValueError:  # lists among the values
        table = np.array(None)
    # Value by value only where it must be: 400,000 points cost a second more.
    are_numbers = table.dtype.kind in "if"
    if not are_numbers or not (np.abs(table) < LARGEST_DRAWN).all():
        table = _parse_rows(rows)
    table = table.astype(float).reshape(-1, len(keys))
    return table, len(rows) - len(table)


def _parse_rows(rows: list[tuple]) -> np.ndarray:
    """The rows whose values are all numbers that can be drawn."""
    numbers = []
    for row in rows:
        values = [_drawable_number(value) for value in row]
        if None not in values:
            numbers.append(values)
    return np.array(numbers, dtype=float)


def _drawable_number(value: Any) -> float | None:
    number = as_number(value)
    if number is None or abs(number) >= LARGEST_DRAWN:
        return None
    return number
