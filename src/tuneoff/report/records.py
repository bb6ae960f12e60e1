"""Reads records from disk and believes none of them: what is half-written or foreign costs a line, not the report."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from tuneoff import record

PREDICTION = "prediction.json"
PHASES = (
    "load",
    "train",
    "evaluate",
    "generate",
    "export",
)  # the order in which a reader expects them
PARTS = ("parameters", "gradients", "optimizer_state", "activations")


class ReportError(ValueError):
    """A report that cannot be written as asked; its text is the one line that the user sees."""


@dataclass(frozen=True)
class Curve:
    """A thinned learning curve. `train` has columns step, tokens, seconds, loss; `validation` has step, loss."""

    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class Run:
    """One record, and what a report asks of it."""

    folder: str
    content: dict
    status: str
    curve: Curve | None = field(default=None, repr=False)

    def get(self, path: str) -> Any:
        """The value at a path such as `loss.final`, or None."""
        value: Any = self.content
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def table(self, path: str) -> dict:
        """The object at a path; empty where there is none."""
        value = self.get(path)
        return value if isinstance(value, dict) else {}

    def number(self, path: str) -> float | None:
        """The finite number at a path, or None."""
        return as_number(self.get(path))

    @property
    def method(self) -> str:
        """The value of `method`."""
        return self.content["method"]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.content["seed"]

    @property
    def predicted(self) -> bool:
        """Whether this is a prediction: nothing was trained."""
        return self.status == "predicted"

    @property
    def finished(self) -> bool:
        """Whether its figures count."""
        return self.status == "finished"

    @cached_property
    def setting(self) -> dict:
        """The config as flat keys, without the seed and what does not change a result."""
        config = {
            key: value
            for key, value in self.table("config").items()
            if key not in record.INCIDENTAL
        }
        return {
            key.replace("/", "."): value
            for key, value in record.flatten(config).items()
            if key != "seed"
        }

    def scores(self, metric: str) -> np.ndarray | None:
        """A metric's score of each example, which the record writes as a string of 0 and 1; None where it has none."""
        text = self.get(f"metric_facts.{metric}.scores")
        if not isinstance(text, str) or not text or set(text) - {"0", "1"}:
            return None
        return np.frombuffer(text.encode(), np.uint8) - np.float64(ord("0"))

    @cached_property
    def peaks(self) -> dict[str, float]:
        """Peak memory in GiB by phase, measured or predicted."""
        peaks = self.table("memory.peak_gib") or self.table("peak_gib")
        known = {name: as_number(value) for name, value in peaks.items()}
        order = sorted(
            known, key=lambda name: (PHASES.index(name) if name in PHASES else len(PHASES), name)
        )
        return {name: value for name in order if (value := known[name]) is not None}

    @cached_property
    def breakdown(self) -> dict[str, float]:
        """GiB by category at the peak, measured or predicted; empty where it was not counted."""
        found = self.table("memory.train_breakdown_gib") or self.table("breakdown_gib")
        return {part: value for part in PARTS if (value := as_number(found.get(part))) is not None}


def as_number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Every record under `folders`, and a line for each file that was skipped.

    Sorted by content rather than by time or by the order of `folders`, so that the same records give the same report.

    Raises:
        ReportError: a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"{folder}: no such folder")
    runs: list[Run] = []
    skipped: list[str] = []
    for folder in sorted({found for root in folders for found in run_folders(root)}):
        runs.extend(_read_folder(folder, skipped))
    return sorted(runs, key=lambda run: (run.method, run.seed, run.folder)), skipped


def run_folders(root: Path) -> Iterator[Path]:
    """Folders at or below `root` that hold a record. What lies inside a run's folder is not looked at."""
    for place, folders, files in os.walk(root):
        folders.sort()
        if {record.RUN, record.RESULT, PREDICTION} & set(files):
            folders.clear()
            yield Path(place)


def _read_folder(folder: Path, skipped: list[str]) -> Iterator[Run]:
    prediction = _load(folder / PREDICTION, skipped)
    if prediction is not None:
        yield Run(str(folder), prediction, "predicted")
    result = _load(folder / record.RESULT, skipped)
    if result is not None and not isinstance(result.get("status"), str):
        skipped.append(f"{folder / record.RESULT}: skipped, it has no status")
        result = None
    content = result or _load(folder / record.RUN, skipped)
    if content is None:
        return
    if result is not None:
        points = content.pop("curve", None)
        yield Run(str(folder), content, content["status"], _curve(points, content))
    elif prediction is None or (folder / record.METRICS).exists():
        status = "running" if record.is_locked(folder) else "interrupted"
        yield Run(str(folder), content, status, _curve(record.thin_curve(_lines(folder)), content))


def _lines(folder: Path) -> list[dict]:
    """The lines of an unfinished run's metrics.jsonl that have a step."""
    try:
        return [
            line
            for line in record.read_metrics(folder)
            if isinstance(line, dict) and as_number(line.get("step"))
        ]
    except (OSError, ValueError, RecursionError):
        return []


def _load(path: Path, skipped: list[str]) -> dict | None:
    """The record in `path`; None, and a line in `skipped` unless it is simply not there."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        skipped.append(f"{path}: skipped, not readable as JSON ({type(error).__name__})")
        return None
    reason = _foreign(content)
    if reason:
        skipped.append(f"{path}: skipped, {reason}")
        return None
    return content


def _foreign(content: Any) -> str | None:
    """Why this is no record of ours, or None if it is one."""
    if not isinstance(content, dict):
        return "not an object"
    version = content.get("schema_version")
    if version != record.SCHEMA_VERSION:
        return f"its schema_version is {str(version)[:20]}, and this report reads {record.SCHEMA_VERSION}"
    if not isinstance(content.get("method"), str) or not isinstance(content.get("config"), dict):
        return "not a run's record: it has no method or no config"
    seed = content.get("seed")
    return (
        "its seed is not a whole number"
        if isinstance(seed, bool) or not isinstance(seed, int)
        else None
    )


def _curve(points: Any, content: dict) -> Curve:
    """Arrays from the record's lines; a line with a value missing is left out."""
    points = (
        [point for point in points if isinstance(point, dict)] if isinstance(points, list) else []
    )
    train = _columns(points, "step", "tokens", "step_seconds", "loss")
    # A thinned curve has lost the steps in between: each kept step stands for those since the last one,
    # and the sum is set to the measured training time.
    seconds = np.cumsum(train[:, 2] * np.diff(train[:, 0], prepend=0))
    throughput = content.get("throughput")
    total = as_number(throughput.get("train_seconds")) if isinstance(throughput, dict) else None
    if total and len(seconds) and seconds[-1] > 0:
        seconds *= total / seconds[-1]
    train[:, 2] = seconds
    return Curve(train, _columns(points, "step", "validation_loss"))


def _columns(points: list[dict], *keys: str) -> np.ndarray:
    take, needed = itemgetter(*keys), keys[-1]
    rows = [take(point) for point in points if needed in point and point.keys() >= set(keys)]
    try:
        whole = np.array(rows)
    except ValueError:  # lists among the values
        whole = np.array(None)
    if (
        whole.dtype.kind not in "if" or not np.isfinite(whole).all()
    ):  # otherwise 400,000 points cost a second more
        read = [[as_number(value) for value in row] for row in rows]
        whole = np.array([row for row in read if None not in row], dtype=float)
    return whole.astype(float).reshape(-1, len(keys))
