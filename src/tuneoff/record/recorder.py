"""The recorder: run.json first, a metrics.jsonl line a step, result.json at the end.

Standard library only, so that a report can read records where torch is not installed.
"""

import fcntl
import logging
import time
import traceback
from contextlib import suppress
from errno import ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from pathlib import Path
from typing import NamedTuple, TextIO

from tuneoff.record.earlier_run import list_replaced, remove
from tuneoff.record.files import (
    describe_os_error,
    find_bad_line,
    format_line,
    name_in_errors,
    read_json,
    read_metrics,
    set_aside,
    set_aside_unreadable,
    thin_curve,
    utc_now,
    write_json,
    write_lines,
)
from tuneoff.record.schema import (
    ANSWERS,
    BENCHMARKS,
    LOCK,
    METRICS,
    PREDICTION,
    RESULT,
    RUN,
    SCHEMA_VERSION,
)
from tuneoff.record.secrets import mask_record, mask_secrets
from tuneoff.record.status import holds_run

log = logging.getLogger(__name__)
# How often a lock is tried for, and the seconds in between.
LOCK_ATTEMPTS = 5
LOCK_SECONDS = 0.05
# What a disk says that knows no locks, as a cluster's may be: Lustre mounted without flock, NFS without a lock daemon.
WITHOUT_LOCKS = (ENOSYS, ENOTSUP, EOPNOTSUPP, ENOLCK)


def describe_error(error: BaseException) -> dict:
    """Type, message and traceback, as the record holds them."""
    return {
        "type": type(error).__name__,
        "message": str(error).strip(),
        "traceback": "".join(traceback.format_exception(error)),
    }


def format_failure(status: str, error: dict) -> str:
    """Return `failed: ValueError: why`; a type or a message that begins with the status is not said twice."""
    message = str(error.get("message"))
    if message.lower().startswith(status):
        return message
    if str(error.get("type")).lower() == status:
        return f"{status}: {message}"
    return f"{status}: {error.get('type')}: {message}"


class Busy(RuntimeError):
    """Another process trains in this folder."""


class AlreadyDone(RuntimeError):
    """Another process finished this run between our look and our lock."""


class NeverBegan(RuntimeError):
    """A run failed before its record began, and the folder keeps what an earlier run has left there."""

    def __init__(self, status: str, error: dict, folder: Path):
        super().__init__(f"{format_failure(status, error)}; {folder} keeps its earlier run")
        self.status = status
        self.error = error


class ResumePoint(NamedTuple):
    """Where a run goes on: behind a checkpoint's last step and evaluation."""

    step: int
    evaluated_at: int
    recorder: dict  # what `Recorder.state` gave then

    def covers(self, line: dict) -> bool:
        """Whether a line of metrics.jsonl was written before this point; what comes after it is done again."""
        last = self.step if "loss" in line else self.evaluated_at
        return line["step"] <= last


class Recorder:
    """Writes one run's record. Holds the folder's lock from the first line to the last."""

    def __init__(self, folder: Path):
        """Take the lock of `folder`, which is made if it is not there.

        Raises:
            Busy: another living process holds it.
            OSError: the folder cannot be written.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(folder / LOCK)
        self.run: dict = {}
        self.curve: list[dict] = []
        self._metrics: TextIO | None = None
        self.begun = False  # whether the folder holds this run, and no earlier one
        self._replaces = False  # an earlier run that is not gone on with
        self._started = time.perf_counter()
        self._earlier_seconds = 0.0

    def start(self, run: dict, resumed: ResumePoint | None = None) -> None:
        """Write run.json and begin metrics.jsonl; over an earlier record only once `describe` says that the run can be.

        Args:
            resumed: where the run goes on; lines of metrics.jsonl that lie behind it are cut off.
        """
        self.run = {
            "schema_version": SCHEMA_VERSION,
            **mask_record(run),
            "started_at": utc_now(),
        }
        if resumed is not None:
            before = read_json(self.folder / RUN) or resumed.recorder
            for key in ("started_at", "tracker_id"):
                self.run[key] = before.get(key, self.run.get(key))
            self.run["resumed_at_step"] = resumed.step
            self.curve = [line for line in read_metrics(self.folder) if resumed.covers(line)]
        holds_earlier = holds_run(self.folder)
        self._replaces = holds_earlier and resumed is None
        if not holds_earlier:
            self._begin()

    def _begin(self) -> None:
        """From here on the folder holds this run, and no earlier one: whose result goes last, since it is whole."""
        replaced = []
        if self._replaces:
            replaced = list_replaced(self.folder, self.run.get("identity"))
        self._set_aside_unreadable()
        write_lines(self.folder / METRICS, self.curve)
        self._metrics = (self.folder / METRICS).open("a", buffering=1)
        write_json(self.folder / RUN, self.run)
        for path in replaced:
            remove(path)
        for old in (ANSWERS, BENCHMARKS, RESULT):
            (self.folder / old).unlink(missing_ok=True)
        self.begun = True

    def _set_aside_unreadable(self) -> None:
        """Keep under another name what an earlier run has left and nobody can read."""
        for name in (RUN, RESULT):
            set_aside_unreadable(self.folder / name)
        number = find_bad_line(self.folder)
        if number is not None:
            set_aside(self.folder / METRICS, f"line {number} is no JSON object with a step")

    def describe(self, more: dict) -> None:
        """Add to run.json what is known once the model and the data are there."""
        self.run.update(mask_record(more))
        if self.begun:
            write_json(self.folder / RUN, self.run)
        else:
            self._begin()

    def state(self) -> dict:
        """What a checkpoint keeps: the seconds so far, and which run this is, should run.json be lost."""
        names = {key: self.run.get(key) for key in ("identity", "started_at", "tracker_id")}
        return {"wall_seconds": self.wall_seconds(), **names}

    def restore(self, state: dict) -> None:
        """Go on from what `state()` gave."""
        self._earlier_seconds = state["wall_seconds"]

    def wall_seconds(self) -> float:
        """Seconds since the run began, those before a resume included."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def log(self, line: dict) -> None:
        """Append a line to metrics.jsonl, where `step` is in it."""
        assert self._metrics is not None
        self.curve.append(line)
        with name_in_errors(self.folder / METRICS):
            self._metrics.write(format_line(line))

    def alive(self) -> None:
        """A sign of life where no line is due: a sweep kills a job that writes none for too long."""
        (self.folder / METRICS).touch()

    def keep_answers(self, lines: list[dict]) -> None:
        """Write answers.jsonl."""
        write_lines(self.folder / ANSWERS, lines)

    def keep_benchmarks(self, lines: list[dict]) -> None:
        """Write benchmarks.jsonl."""
        write_lines(self.folder / BENCHMARKS, lines)

    def finish(self, status: str, measured: dict, error: dict | None = None) -> dict:
        """Write result.json: all of run.json, the status, and what was measured, however far the run came."""
        result = {
            **self.run,
            "status": status,
            "error": mask_secrets(error),
            "finished_at": utc_now(),
            **measured,
            "curve": thin_curve(self.curve),
        }
        result.setdefault("throughput", {})["wall_seconds"] = round(self.wall_seconds(), 3)
        if not self.begun:
            self._begin()
        if self._metrics is not None:
            # Where a line could not be written, `log` has said so.
            with suppress(OSError):
                self._metrics.close()
        write_json(self.folder / RESULT, result)
        return result

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()


def _take_lock(path: Path) -> TextIO:
    """Lock a file, which is made if it is not there; return it, open for as long as the lock shall last."""
    lock = path.open("a")
    for _ in range(LOCK_ATTEMPTS):
        try:
            # Held by the process, not by a file that a crash would leave behind.
            with name_in_errors(path):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            # It may have been `is_locked`, which holds the lock for an instant.
            time.sleep(LOCK_SECONDS)
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                reason = describe_os_error(error)
                log.warning("%s; nothing keeps a second run out of this folder", reason)
                return lock
            lock.close()
            raise
    lock.close()
    raise Busy(f"{path.parent}: another process is training here")


def write_prediction(folder: Path, run: dict, prediction: dict) -> dict:
    """Write prediction.json, which no reader takes for a result: a run's own keys, and what was foreseen of it."""
    content = {
        "schema_version": SCHEMA_VERSION,
        **mask_record(run),
        "predicted_at": utc_now(),
        **prediction,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PREDICTION, content)
    return content
