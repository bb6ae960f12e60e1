"""The worker: what a job's process does before and after its work; the forkserver forks it, a supervisor watches it."""

import logging
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tuneoff.distributed.launch import choose_device_index, get_rank
from tuneoff.distributed.stop import STOP_SIGNALS, interrupt_on_stop_signals
from tuneoff.jobs.failures import FailureReport
from tuneoff.record.console import prepare_console

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
LINGER_SECONDS = 15.0  # for what a library still wants to finish when the record is whole
GIB = 2**30


@dataclass
class Job:
    """What a process is started with.

    Attributes:
        environ: the whole environment, since the forkserver keeps that of its first start.
        payload: the pickled work. Unpickled late, within this environment.
        memory_gib: of this process at most; None: no limit.
        log_file: gets all that is logged and printed; None: it goes where the forkserver's goes.
        ignored_signals: the stop signals that the launching process ignores.
        rendezvous: the open port at which the ranks of the job find each other, for the one that serves it.
    """

    environ: Mapping[str, str]
    payload: bytes
    memory_gib: float | None
    log_file: Path | None
    log_level: int
    ignored_signals: Sequence[int]
    rendezvous: socket.socket | None


def run_job(job: Job, reports: Connection) -> None:
    """Do the work in its environment and within its limits; report a failure that no record tells of."""
    os.environ.clear()
    os.environ.update(job.environ)
    prepare_console()
    release_held_cuda()
    receive_stop_signals(job.ignored_signals)
    server = os.getppid()
    threading.Thread(target=die_with_launcher, args=(server,), daemon=True).start()
    if job.log_file is not None:
        redirect_output(job.log_file, job.log_level)
    try:
        limit_threads()
        limit_memory(job.memory_gib)
        # As long as it lives, it answers.
        rendezvous = serve_rendezvous(job.rendezvous) if job.rendezvous else None  # noqa: F841
        with interrupt_on_stop_signals():
            result = pickle.loads(job.payload).run()
        if get_rank() and result["status"] != "finished":
            reports.send(FailureReport.from_result(result))
    except BaseException as error:
        if job.log_file is not None:  # else the launching process says it at the same place
            logging.getLogger(__name__).error("%s: %s", type(error).__name__, error)
        reports.send(FailureReport.from_error(error))
    finally:
        # The record is whole; a thread that a library still waits for must not hold up the sweep.
        exit_timer = threading.Timer(LINGER_SECONDS, os._exit, (0,))
        exit_timer.daemon = True
        exit_timer.start()


def release_held_cuda() -> None:
    """Let this process start CUDA, which the forkserver does not."""
    held_cuda = sys.modules.get("tuneoff.jobs.held_cuda")
    if held_cuda is not None:
        held_cuda.release_cuda()


def receive_stop_signals(ignored: Sequence[int]) -> None:
    """Hear the signals that the forkserver ignores, but for those that the launching process ignores too."""
    # A Ctrl-C reaches this process as well, but the launching process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def serve_rendezvous(opened: socket.socket) -> object:
    """The store where the ranks of a job find each other, at the port that the launching process has opened."""
    from torch.distributed import TCPStore

    host, port = opened.getsockname()
    return TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=opened.detach(),
    )


def die_with_launcher(server: int) -> None:
    """Watch the launching process, whose SIGKILL reaches nobody else, and the forkserver `server`; end with either."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    while launcher.is_alive() and os.getppid() == server:
        launcher.join(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def redirect_output(path: Path, log_level: int) -> None:
    """Append to a file all that this process logs and prints, its libraries written in C too."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard_output in (1, 2):
        os.dup2(file, standard_output)
    os.close(file)
    log_as_rank(log_level)


def log_as_rank(level: int, *more: logging.Handler) -> None:
    """Log to stderr and `more`; a rank beside the first only what is wrong, and under its number."""
    rank = get_rank()
    message = "%(message)s"
    if rank:
        level = max(level, logging.WARNING)
        message = f"rank {rank}: {message}"
    handlers = [logging.StreamHandler(sys.stderr), *more]
    logging.basicConfig(level=level, force=True, format=message, handlers=handlers)


def limit_threads() -> None:
    """Set the threads that this job's environment says: OpenMP read another when the forkserver imported torch."""
    given = [os.environ.get(name, "") for name in THREADS]
    values = [value for value in given if value.isdigit()]
    if values:
        import torch

        torch.set_num_threads(int(values[0]))


def limit_memory(memory_gib: float | None) -> None:
    """Make allocations beyond the limit fail: the device's where there is one, else this process's own data."""
    if memory_gib is None:
        return
    import torch

    limit = memory_gib * GIB
    if torch.cuda.is_available():
        device = choose_device_index(torch.cuda.device_count())
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, limit / total)
        torch.cuda.set_per_process_memory_fraction(share, device)
        return
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
