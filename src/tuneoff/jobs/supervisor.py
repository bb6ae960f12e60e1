"""One job, its own processes: children of a warm forkserver, watched and limited, that leave a record however they end.

A job has one process, or several ranks that train together. Peak memory is a process-wide figure, so jobs that share
a process poison each other; a fresh interpreter for each job would cost seconds of imports. `multiprocessing`'s
forkserver has them done once. This process imports no torch.
"""

import logging
import math
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType

from tuneoff.distributed.ranks import RankLost
from tuneoff.jobs import worker
from tuneoff.record import (
    METRICS,
    RESULT,
    AlreadyDone,
    Busy,
    conclude_dead_run,
    describe_error,
    read_json,
)

PRELOAD = [
    "tuneoff.jobs.die_with_parent",
    "tuneoff.jobs.worker",
    "torch",
    "transformers.models.llama.modeling_llama",
    "tuneoff.models.loading",
    "peft",
    "accelerate",
    "hydra.core.utils",
    "tuneoff.methods",
    "tuneoff.jobs.work",
    "tuneoff.training.run",
]
GRACE_SECONDS = 15.0  # from SIGTERM, on which a run saves a checkpoint, to SIGKILL
POLL_SECONDS = 0.2


@dataclass
class Limits:
    """What a job may use: GiB of memory a rank, seconds in all, and seconds without a new line of metrics."""

    memory_gib: float | None = None
    timeout_seconds: float | None = None
    stall_seconds: float | None = None


class Killed(RuntimeError):
    """The job's process ended without a word."""


class JobFailed(RuntimeError):
    """What happened to work that leaves no result to say it."""


class TimedOut(RuntimeError):
    """The job ran into a limit of time, and was stopped."""


class _Rank:
    """One of a job's processes, and what it tells of its end."""

    def __init__(self, process: ForkServerProcess, errors: Connection):
        self.process, self.errors = process, errors
        self.told: dict | None = None  # status, type, message and traceback of what went wrong
        self.stopped = False  # by us

    def ended(self) -> bool:
        """Whether it has; `told` is then complete."""
        if self.process.is_alive():
            return False
        self.told = self.told or _received(self.errors)
        return True

    @property
    def died(self) -> bool:
        """Whether it ended without being asked to, and as no process ends by itself."""
        return self.process.exitcode not in (None, 0) and not self.stopped

    def kill(self) -> None:
        """End it now."""
        self.stopped = self.stopped or self.process.is_alive()
        self.process.kill()
        self.process.join()


def run_supervised(
    work: Callable[[], object],
    folder: Path,
    start: dict | None,
    limits: Limits,
    log_file: Path | None = None,
    ranks: int = 1,
) -> None:
    """Do `work` in a child process, or in `ranks` of them at once, and see to it that `folder` holds a result then.

    Args:
        work: picklable; trains into `folder` and writes its own result, unless it dies or raises. Of several ranks the
            first writes; WORLD_SIZE, RANK and their like tell each who it is and where the others are.
        start: what the record of a child says that died before it wrote run.json; None for work that leaves no result,
            a prediction.
        log_file: gets all that the child logs and prints; without it the child prints where this process does.

    Raises:
        Busy: another process trains in `folder`.
        AlreadyDone: another process was quicker.
        JobFailed: work that leaves no result failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the child has been stopped, and its record says `interrupted`.
    """
    before, started = _stamp(folder), time.time()
    with sigterm_interrupts():
        job = _start(pickle.dumps(work), limits.memory_gib, log_file, ranks)
        try:
            error = _watch(job, folder, limits)
        except KeyboardInterrupt:
            _stop(job)
            if start is not None and _stamp(folder) in (None, before):
                conclude_dead_run(
                    folder,
                    start,
                    "interrupted",
                    describe_error(KeyboardInterrupt("stopped by the user")),
                    time.time() - started,
                )
            raise
    raised = job[0].told
    if raised and raised["type"] in (Busy.__name__, AlreadyDone.__name__):
        raise {"Busy": Busy, "AlreadyDone": AlreadyDone}[raised["type"]](raised["message"])
    if error is None and start is None and raised is None and job[0].process.exitcode == 0:
        return
    # A run that begins removes an earlier result. The first rank cannot know how another died.
    wrote = _stamp(folder) not in (None, before)
    if error is None and wrote and not (_lost_another(folder) and any(rank.died for rank in job)):
        return
    told = {"status": "timed_out", **describe_error(error)} if error else _what_happened(job)
    status = told.pop("status")
    if start is None:
        raise JobFailed(f"{told['type']}: {told['message']}")
    conclude_dead_run(folder, start, status, told, time.time() - started)


def _lost_another(folder: Path) -> bool:
    """Whether the result says no more than that another rank is gone."""
    error = (read_json(folder / RESULT) or {}).get("error") or {}
    return error.get("type") == RankLost.__name__


def _what_happened(job: list[_Rank]) -> dict:
    """Why a job left no result: what a rank tells of itself, else which one died, else what one saw of another."""
    told = [rank.told for rank in job if rank.told]
    for error in told:
        if error["type"] != RankLost.__name__:
            return error
    index = next((index for index, rank in enumerate(job) if rank.died), 0)
    name = "the process" if len(job) == 1 else f"rank {index} of {len(job)}"
    died = Killed(f"{name} ended by {_how(job[index].process.exitcode)} and left no result")
    return {"status": "killed", **describe_error(died)} if job[index].died or not told else told[0]


def _stamp(folder: Path) -> tuple[int, int] | None:
    """What tells one result.json from another that replaced it."""
    try:
        found = (folder / RESULT).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _received(errors: Connection) -> dict | None:
    """The error that the child has sent, if it did."""
    try:
        return errors.recv() if errors.poll() else None
    except EOFError:
        return None


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM stop a sweep as Ctrl-C does, where nobody else handles it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# ---------------------------------------------------------------- the launching process's side
def _start(
    payload: bytes, memory_gib: float | None, log_file: Path | None, ranks: int
) -> list[_Rank]:
    # Under joblib the default is its own method, which a forkserver's child does not know.
    multiprocessing.set_start_method("forkserver", force=True)
    context = multiprocessing.get_context("forkserver")
    _warm_up()
    _end_with_the_pool()
    job = []
    # Open from now on: no other process can take the port before the first rank answers at it.
    with socket.create_server(("127.0.0.1", 0)) as meeting_place:
        for rank in range(ranks):
            errors, theirs = context.Pipe(duplex=False)
            environ = {
                **os.environ,
                **(_whereabouts(rank, ranks, meeting_place) if ranks > 1 else {}),
            }
            arguments = (
                environ,
                payload,
                memory_gib,
                log_file,
                logging.getLogger().level,
                theirs,
                meeting_place if ranks > 1 and rank == 0 else None,
            )
            process = context.Process(target=worker.main, args=arguments, name="tuneoff job")
            with _no_main_module():
                process.start()
            theirs.close()
            job.append(_Rank(process, errors))
    return job


def _whereabouts(rank: int, ranks: int, meeting_place: socket.socket) -> dict[str, str]:
    """What torchrun would put into a rank's environment."""
    host, port = meeting_place.getsockname()
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _warm_up() -> None:
    """Start the forkserver, unless it runs, with libraries imported and no limit of threads (each job sets its own)."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    kept = {name: os.environ.pop(name) for name in worker.THREADS if name in os.environ}
    # On CUDA torch would otherwise ask the driver, after which a forked child could not use the device.
    kept_check = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK")
        os.environ.update(
            kept if kept_check is None else {**kept, "PYTORCH_NVML_BASED_CUDA_CHECK": kept_check}
        )


@cache
def _end_with_the_pool() -> None:
    """In a launcher's worker process (joblib's), which would outlive a SIGKILL of that launcher: end with it."""
    if multiprocessing.current_process().name == "MainProcess":
        return

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)  # our job and the forkserver watch us in their turn

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep the child from running this program's main file again, as `multiprocessing` would have it do."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _watch(job: list[_Rank], folder: Path, limits: Limits) -> TimedOut | None:
    """Wait for the processes themselves, since a queue of a dead one stays silent; stop them when over time."""
    started, wall, before, alone = time.monotonic(), time.time(), _stamp(folder), math.inf
    while living := [rank for rank in job if not rank.ended()]:
        if limits.timeout_seconds and time.monotonic() - started > limits.timeout_seconds:
            _stop(job)
            return TimedOut(f"not done after job_timeout_seconds={limits.timeout_seconds:g}")
        if limits.stall_seconds and time.time() - _last_line(folder, wall) > limits.stall_seconds:
            _kill(job)
            return TimedOut(
                f"no new line of metrics for job_stall_seconds={limits.stall_seconds:g}"
            )
        if job[0] not in living:  # the others write nothing, and may wait for it for ever
            _kill(living)
        elif any(
            rank.died or rank.told for rank in job
        ):  # the first has a moment to see it, and to record it
            alone = min(alone, time.monotonic())
            if time.monotonic() - alone > GRACE_SECONDS and _stamp(folder) in (None, before):
                _kill(living)
        wait([rank.process.sentinel for rank in living], POLL_SECONDS)
    return None


def _last_line(folder: Path, started: float) -> float:
    try:
        return max(started, (folder / METRICS).stat().st_mtime)
    except OSError:
        return started


def _stop(job: list[_Rank]) -> None:
    """SIGTERM, so that a checkpoint is saved, then SIGKILL; a second Ctrl-C kills at once."""
    try:
        for rank in job:
            rank.stopped = True
            rank.process.terminate()
        job[0].process.join(GRACE_SECONDS)
    finally:
        _kill(job)


def _kill(job: list[_Rank]) -> None:
    for rank in job:
        rank.kill()
