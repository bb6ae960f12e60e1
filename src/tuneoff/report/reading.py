"""Reading: finds records on disk and believes none of them. What is half-written or foreign costs a line."""

import json
import os
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from tuneoff import record
from tuneoff.report.records import Curve, ReportError, Run, as_number

RECORD_FILES = frozenset((record.RUN, record.RESULT, record.PREDICTION))


def read_records(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return every record under `folders`, and a line for each file that was skipped.

    Sorted by content rather than by time or by the order of `folders`, so that the same records give the same report.

    Raises:
        ReportError: a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"{folder}: no such folder")
    runs: list[Run] = []
    skipped: list[str] = []
    for folder in find_run_folders(folders):
        runs.extend(_read_folder(folder, skipped))
    runs.sort(key=lambda run: (run.method, run.seed, run.folder))
    return runs, skipped


def find_run_folders(roots: Sequence[Path]) -> list[Path]:
    """Return the folders at or below `roots` that hold a record; what lies inside a run's folder is not looked at."""
    run_folders = set()
    for root in roots:
        for path, folders, files in os.walk(root):
            folders.sort()
            if RECORD_FILES & set(files):
                folders.clear()
                run_folders.add(Path(path))
    return sorted(run_folders)


def _read_folder(folder: Path, skipped: list[str]) -> Iterator[Run]:
    """The prediction of a folder, and its run: as its result says, else as far as run.json and its metrics came."""
    prediction = _load_record(folder / record.PREDICTION, skipped)
    if prediction is not None:
        yield Run(str(folder), prediction, "predicted")
    result = _load_record(folder / record.RESULT, skipped)
    if result is not None and not isinstance(result.get("status"), str):
        skipped.append(f"{folder / record.RESULT}: skipped, it has no status")
        result = None
    if result is not None:
        points = result.pop("curve", None)
        yield Run(str(folder), result, result["status"], _read_curve(points, result))
        return
    started = _load_record(folder / record.RUN, skipped)
    if started is None:
        return
    if prediction is None or (folder / record.METRICS).exists():
        status = "running" if record.is_locked(folder) else "interrupted"
        points = record.thin_curve(_read_metrics(folder))
        yield Run(str(folder), started, status, _read_curve(points, started))


def _read_metrics(folder: Path) -> list[dict]:
    """The lines of an unfinished run's metrics.jsonl that have a step."""
    lines = []
    try:
        for line in record.read_metrics(folder):
            if isinstance(line, dict) and as_number(line.get("step")):
                lines.append(line)
    except (OSError, ValueError, RecursionError):
        return []
    return lines


def _load_record(path: Path, skipped: list[str]) -> dict | None:
    """The record in `path`; None, and a line in `skipped` unless it is simply not there."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        skipped.append(f"{path}: skipped, not readable as JSON ({type(error).__name__})")
        return None
    reason = _find_foreign(content)
    if reason:
        skipped.append(f"{path}: skipped, {reason}")
        return None
    return content


def _find_foreign(content: Any) -> str | None:
    """Why this is no record of ours, or None if it is one."""
    if not isinstance(content, dict):
        return "not an object"
    version = content.get("schema_version")
    if version != record.SCHEMA_VERSION:
        text = str(version)[:20]
        return f"its schema_version is {text}, and this report reads {record.SCHEMA_VERSION}"
    has_method = isinstance(content.get("method"), str)
    if not has_method or not isinstance(content.get("config"), dict):
        return "not a run's record: it has no method or no config"
    seed = content.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        return "its seed is not a whole number"
    return None


# ---------------------------------------------------------------- learning curves
def _read_curve(points: Any, content: dict) -> Curve:
    """Arrays from the record's lines; a line with a value missing is left out."""
    lines = points if isinstance(points, list) else []
    lines = [line for line in lines if isinstance(line, dict)]
    train = _read_columns(lines, "step", "tokens", "step_seconds", "loss")
    throughput = content.get("throughput")
    seconds = throughput.get("train_seconds") if isinstance(throughput, dict) else None
    train[:, 2] = _sum_seconds(train, as_number(seconds))
    return Curve(train, _read_columns(lines, "step", "validation_loss"))


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


def _read_columns(lines: list[dict], *keys: str) -> np.ndarray:
    """(lines, keys) of the lines that have all keys, the rarest one last; without those that are no numbers."""
    take = itemgetter(*keys)
    rows = []
    for line in lines:
        if keys[-1] in line and line.keys() >= set(keys):
            rows.append(take(line))
    try:
        table = np.array(rows)
    except ValueError:  # lists among the values
        table = np.array(None)
    # Value by value only where it must be: 400,000 points cost a second more.
    if table.dtype.kind not in "if" or not np.isfinite(table).all():
        table = _parse_rows(rows)
    return table.astype(float).reshape(-1, len(keys))


def _parse_rows(rows: list[tuple]) -> np.ndarray:
    """The rows whose values are all finite numbers."""
    numbers = []
    for row in rows:
        values = [as_number(value) for value in row]
        if None not in values:
            numbers.append(values)
    return np.array(numbers, dtype=float)
