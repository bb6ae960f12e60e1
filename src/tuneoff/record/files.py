"""The record's files: written whole or not at all, and read with nothing believed. Standard library only."""

import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneoff.record.schema import CURVE_POINTS, METRICS


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, content: dict) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        # A NaN is not JSON; a record with one must still be readable everywhere.
        json.dump(replace_non_finite(content), file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_lines(path: Path, lines: list[dict]) -> None:
    """Write JSON lines atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(
        "".join(json.dumps(replace_non_finite(line), allow_nan=False) + "\n" for line in lines)
    )
    temporary.replace(path)


def replace_non_finite(value: Any) -> Any:
    """The same content with `None` for every NaN and infinity."""
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict | None:
    """The object in `path`, or `None` where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_metrics(folder: Path) -> Iterator[dict]:
    """Yield the lines of metrics.jsonl; a last line that a crash cut short is left out."""
    path = folder / METRICS
    if path.exists():
        with path.open() as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    return


def flatten(content: dict, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` as `{"a/b": 1}`; lists as text. What trackers can hold."""
    flat: dict = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = (
                value
                if isinstance(value, int | float | str | bool) or value is None
                else str(value)
            )
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
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]
