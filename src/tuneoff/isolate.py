"""One job, one process: a child of a warm forkserver, watched and limited, that leaves a record however it ends.

Peak memory is a process-wide figure, so jobs that share a process poison each other; a fresh interpreter for each job
would cost seconds of imports. `multiprocessing`'s forkserver has them done once. This process imports no torch.
"""
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType

from tuneoff.record import METRICS, RESULT, AlreadyDone, Busy, conclude, describe_error

PRELOAD = ["tuneoff.tether", "torch", "transformers.models.llama.modeling_llama", "tuneoff.models", "peft",
           "accelerate", "hydra.core.utils", "tuneoff.entry", "tuneoff.loop"]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
GRACE_SECONDS = 15.0  # from SIGTERM, on which a run saves a checkpoint, to SIGKILL
POLL_SECONDS = 0.2
GIB = 2**30


@dataclass
class Limits:
    """What a job may use: GiB of memory, seconds in all, and seconds without a new line of metrics."""
    memory_gib: float | None = None
    timeout_seconds: float | None = None
    stall_seconds: float | None = None


class Killed(RuntimeError):
    """The job's process ended without a word."""


class JobFailed(RuntimeError):
    """What happened to work that leaves no result to say it."""


class TimedOut(RuntimeError):
    """The job ran into a limit of time, and was stopped."""


def run(work: Callable[[], object], folder: Path, start: dict | None, limits: Limits,
        log_file: Path | None = None) -> None:
    """Do `work` in a child process, and see to it that `folder` holds a result afterwards.

    Args:
        work: picklable; trains into `folder` and writes its own result, unless it dies or raises.
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
        process, errors = _start(pickle.dumps(work), limits.memory_gib, log_file)
        try:
            error = _watch(process, folder, limits)
            status = "timed_out" if error else None
        except KeyboardInterrupt:
            _stop(process)
            if start is not None and _stamp(folder) in (None, before):
                conclude(folder, start, "interrupted", describe_error(KeyboardInterrupt("stopped by the user")),
                         time.time() - started)
            raise
    raised = _received(errors)
    if raised and raised["type"] in (Busy.__name__, AlreadyDone.__name__):
        raise {"Busy": Busy, "AlreadyDone": AlreadyDone}[raised["type"]](raised["message"])
    wrote = _stamp(folder) not in (None, before)  # a run that begins removes an earlier result
    if status is None and (wrote or start is None and raised is None and process.exitcode == 0):
        return  # the child wrote it
    died = error or Killed(f"the process ended by {_how(process.exitcode)} and left no result")
    told = raised or describe_error(died)
    if start is None:
        raise JobFailed(f"{told['type']}: {told['message']}")
    conclude(folder, start, status or ("failed" if raised else "killed"), told, time.time() - started)


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
def _start(payload: bytes, memory_gib: float | None, log_file: Path | None) -> tuple[ForkServerProcess, Connection]:
    # Under joblib the default is its own method, which a forkserver's child does not know.
    multiprocessing.set_start_method("forkserver", force=True)
    context = multiprocessing.get_context("forkserver")
    _warm_up()
    _end_with_the_pool()
    errors, theirs = context.Pipe(duplex=False)
    arguments = (dict(os.environ), payload, memory_gib, log_file, logging.getLogger().level, theirs)
    process = context.Process(target=_child, args=arguments, name="tuneoff job")
    with _no_main_module():
        process.start()
    theirs.close()
    return process, errors


def _warm_up() -> None:
    """Start the forkserver, unless it runs, with libraries imported and no limit of threads (each job sets its own)."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    kept = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
    # On CUDA torch would otherwise ask the driver, after which a forked child could not use the device.
    kept_check = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK")
        os.environ.update(kept if kept_check is None else {**kept, "PYTORCH_NVML_BASED_CUDA_CHECK": kept_check})


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


def _watch(process: ForkServerProcess, folder: Path, limits: Limits) -> TimedOut | None:
    """Wait for the process itself, since a queue of a dead one stays silent; stop it where it is over time."""
    started, wall = time.monotonic(), time.time()
    while not wait([process.sentinel], POLL_SECONDS):
        if limits.timeout_seconds and time.monotonic() - started > limits.timeout_seconds:
            _stop(process)
            return TimedOut(f"not done after job_timeout_seconds={limits.timeout_seconds:g}")
        if limits.stall_seconds and time.time() - _last_line(folder, wall) > limits.stall_seconds:
            process.kill()
            process.join()
            return TimedOut(f"no new line of metrics for job_stall_seconds={limits.stall_seconds:g}")
    process.join()
    return None


def _last_line(folder: Path, started: float) -> float:
    try:
        return max(started, (folder / METRICS).stat().st_mtime)
    except OSError:
        return started


def _stop(process: ForkServerProcess) -> None:
    """SIGTERM, so that a checkpoint is saved, then SIGKILL; a second Ctrl-C kills at once."""
    try:
        process.terminate()
        process.join(GRACE_SECONDS)
    finally:
        process.kill()
        process.join()


# ---------------------------------------------------------------- the child's side
def _child(environ: Mapping[str, str], payload: bytes, memory_gib: float | None, log_file: Path | None,
           log_level: int, errors: Connection) -> None:
    """Do the work in the environment it was given (the forkserver keeps that of its first start)."""
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches us too, but the launching process decides
    threading.Thread(target=_die_with_the_launcher, args=(os.getppid(),), daemon=True).start()
    if log_file is not None:
        _write_all_to(log_file, log_level)
    try:
        _limit_threads()
        _limit_memory(memory_gib)
        pickle.loads(payload)()
    except BaseException as error:
        logging.getLogger(__name__).error("%s: %s", type(error).__name__, error)
        # Shorter than a pipe holds: nobody reads it before this process ends.
        errors.send({key: text[-10_000:] for key, text in describe_error(error).items()})
    finally:
        # The record is whole; a thread that a library still waits for must not hold up the sweep.
        last = threading.Timer(GRACE_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()


def _die_with_the_launcher(server: int) -> None:
    """A SIGKILL of the launching process reaches nobody else: watch it, and the forkserver that tells how we end."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    while launcher.is_alive() and os.getppid() == server:
        launcher.join(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _write_all_to(path: Path, level: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def _limit_threads() -> None:
    """OpenMP read its environment when the forkserver imported torch; set what this job's says."""
    threads = next((os.environ[name] for name in THREADS if os.environ.get(name, "").isdigit()), None)
    if threads is not None:
        import torch
        torch.set_num_threads(int(threads))


def _limit_memory(memory_gib: float | None) -> None:
    """Make allocations beyond the limit fail: the device's where there is one, else this process's own data."""
    if memory_gib is None:
        return
    import torch
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gib * GIB / total))
        return
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gib * GIB),) * 2)
