"""What a job's process does before and after its work: the other side of `supervisor.py`, run by the forkserver."""

import logging
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from tuneoff.distributed.launch import get_rank
from tuneoff.record import describe_error

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
GRACE_SECONDS = 15.0  # for what a library still wants to finish when the record is whole
GIB = 2**30


def main(
    environ: Mapping[str, str],
    payload: bytes,
    memory_gib: float | None,
    log_file: Path | None,
    log_level: int,
    errors: Connection,
    meeting_place: socket.socket | None,
) -> None:
    """Do the work in the environment it was given (the forkserver keeps that of its first start)."""
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a Ctrl-C reaches us too, but the launching process decides
    threading.Thread(target=_die_with_the_launcher, args=(os.getppid(),), daemon=True).start()
    if log_file is not None:
        _write_all_to(log_file, log_level)
    try:
        _limit_threads()
        _limit_memory(memory_gib)
        host = _answer(meeting_place) if meeting_place else None  # noqa: F841 (as long as it lives, it answers)
        result = pickle.loads(payload)()
        if get_rank() and result["status"] != "finished":
            _tell(errors, result["status"], result["error"])
    except BaseException as error:
        if log_file is not None:  # else the launching process says it at the same place
            logging.getLogger(__name__).error("%s: %s", type(error).__name__, error)
        _tell(errors, "failed", describe_error(error))
    finally:
        # The record is whole; a thread that a library still waits for must not hold up the sweep.
        last = threading.Timer(GRACE_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()


def _tell(errors: Connection, status: str, error: dict) -> None:
    # Shorter than a pipe holds: nobody reads it before this process ends.
    errors.send({"status": status, **{key: text[-10_000:] for key, text in error.items()}})


def _answer(meeting_place: socket.socket) -> object:
    """The store where the ranks of a job find each other, at the port that the launching process has opened."""
    from torch.distributed import TCPStore

    host, port = meeting_place.getsockname()
    return TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=meeting_place.detach()
    )


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
    log_as_rank(level)


def log_as_rank(level: int, *more: logging.Handler) -> None:
    """Log to stderr and `more`; a rank beside the first only what is wrong, and under its number."""
    rank = get_rank()
    logging.basicConfig(
        level=max(level, logging.WARNING) if rank else level,
        force=True,
        format=f"rank {rank}: %(message)s" if rank else "%(message)s",
        handlers=[logging.StreamHandler(sys.stderr), *more],
    )


def _limit_threads() -> None:
    """OpenMP read its environment when the forkserver imported torch; set what this job's says."""
    threads = next(
        (os.environ[name] for name in THREADS if os.environ.get(name, "").isdigit()), None
    )
    if threads is not None:
        import torch

        torch.set_num_threads(int(threads))


def _limit_memory(memory_gib: float | None) -> None:
    """Make allocations beyond the limit fail: the device's where there is one, else this process's own data."""
    if memory_gib is None:
        return
    import torch

    if torch.cuda.is_available():
        device = int(os.environ.get("LOCAL_RANK", 0))
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gib * GIB / total), device)
        return
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gib * GIB),) * 2)
