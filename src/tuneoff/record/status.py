"""Status: what a folder holds of a run, which run that is, and how far it came."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tuneoff.record.files import read_json
from tuneoff.record.schema import CHECKPOINTS, LOCK, LOOP, METRICS, RESULT, RUN


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first; none that was set aside as unreadable."""
    if not os.path.isdir(folder):  # nor anything that no path can be, where Path's own would raise
        return []
    paths = folder.glob("step_*")
    return sorted(path for path in paths if path.name.removeprefix("step_").isdigit())


def holds_run(folder: Path) -> bool:
    """Whether a folder holds anything of a run, readable or not."""
    files = [folder / name for name in (RUN, METRICS, RESULT)]
    has_checkpoints = bool(find_checkpoints(folder / CHECKPOINTS))
    return has_checkpoints or any(os.path.exists(path) for path in files)


def read_identity(folder: Path) -> str | None:
    """The identity of the run in a folder, from the first of its files that says it; None where none can be read."""
    for content in _identifying_contents(folder):
        identity = content.get("identity")
        if isinstance(identity, str):
            return identity
    return None


def _identifying_contents(folder: Path) -> Iterator[dict]:
    """run.json; the result, which holds all of it; and what the recorder has put into each checkpoint."""
    for name in (RUN, RESULT):
        yield read_json(folder / name) or {}
    for path in reversed(find_checkpoints(folder / CHECKPOINTS)):
        content = read_json(path / LOOP) or {}
        parts = content.get("parts")
        recorder = parts.get("recorder") if isinstance(parts, dict) else None
        if isinstance(recorder, dict):
            yield recorder


def is_locked(folder: Path) -> bool:
    """Whether a living process trains in `folder`."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_status(folder: Path) -> str | None:
    """A run's status: as its result says, else running where the lock is held, else interrupted; None for no run."""
    status = (read_json(folder / RESULT) or {}).get("status")
    if isinstance(status, str):
        return status
    if is_locked(folder):
        return "running"
    return "interrupted" if holds_run(folder) else None
