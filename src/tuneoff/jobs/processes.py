"""Processes of a job: forked from a warm forkserver, watched by whoever started them. Imports no torch."""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from tuneoff.distributed.launch import EXIT_LEFT_ALONE
from tuneoff.distributed.stop import ignored_stop_signals
from tuneoff.jobs import worker
from tuneoff.jobs.failures import FailureReport

# Imported once by the forkserver, for all jobs. None of these may start CUDA: a forked child could not use it then.
PRELOAD = [
    "tuneoff.jobs.die_with_parent",
    "tuneoff.jobs.keep_forkserver",
    "tuneoff.jobs.worker",
    "tuneoff.jobs.held_cuda",  # before all that may ask for CUDA
    "torch._inductor.compile_fx",  # what torch's optimizers and bitsandbytes import first of all
    "transformers.models.llama.modeling_llama",
    "tuneoff.models.loading",
    "peft",
    "accelerate",
    "hydra.core.utils",
    "tuneoff.methods",
    "tuneoff.jobs.work",
    "tuneoff.training.run",
]
POLL_SECONDS = 0.2


class RankProcess:
    """One process of a job, and what it reports of its end."""

    def __init__(self, process: ForkServerProcess, reports: Connection):
        self.process = process
        self.report: FailureReport | None = None
        self.stopped = False  # by us
        self._reports = reports

    def has_ended(self) -> bool:
        """Whether the process has ended; `report` is then complete."""
        # Asked first: a process whose report is longer than the pipe holds ends when it is read.
        self._receive_report()
        if self.process.is_alive():
            return False
        self._receive_report()
        return True

    def _receive_report(self) -> None:
        if self.report is not None:
            return
        try:
            if self._reports.poll():
                self.report = self._reports.recv()
        except EOFError:
            return

    @property
    def died(self) -> bool:
        """Whether it ended without being asked to, and as no process ends by itself."""
        return self.process.exitcode not in (None, 0, EXIT_LEFT_ALONE) and not self.stopped

    def describe_end(self) -> str:
        """`SIGKILL`, `signal 35` for one that Python has no name for, or `exit code 1`."""
        exit_code = self.process.exitcode
        if exit_code is None or exit_code >= 0:
            return f"exit code {exit_code}"
        try:
            return signal.Signals(-exit_code).name
        except ValueError:  # a real-time signal
            return f"signal {-exit_code}"

    def terminate(self) -> None:
        """Ask it to end by SIGTERM, on which a run saves a checkpoint."""
        self.stopped = True
        self.process.terminate()

    def kill(self) -> None:
        """End it now."""
        if self.process.is_alive():
            self.stopped = True
        self.process.kill()
        self.process.join()


class RankedWork(Protocol):
    """What a job's processes do: `Work`, or something as small as a look at the data. Picklable."""

    @property
    def ranks(self) -> int:
        """Processes that do it together."""

    def run(self) -> dict:
        """Do it in this process; returns the result, with its `status`."""


def start_processes(
    work: RankedWork, memory_gib: float | None, log_file: Path | None
) -> list[RankProcess]:
    """Start the processes that do `work` together, in the order of their ranks."""
    # Under joblib the default is its own method, which a forkserver's child does not know.
    multiprocessing.set_start_method("forkserver", force=True)
    start_forkserver()
    exit_with_the_pool()
    payload = pickle.dumps(work)
    processes = []
    # Open from now on: no other process can take the port before the first rank serves the rendezvous at it.
    with socket.create_server(("127.0.0.1", 0)) as rendezvous:
        for rank in range(work.ranks):
            environ = dict(os.environ)
            if work.ranks > 1:
                environ.update(describe_rank(rank, work.ranks, rendezvous))
            serves = work.ranks > 1 and rank == 0
            job = worker.Job(
                environ,
                payload,
                memory_gib,
                log_file,
                logging.getLogger().level,
                ignored_stop_signals(),
                rendezvous if serves else None,
            )
            processes.append(start_process(job))
    return processes


def start_process(job: worker.Job) -> RankProcess:
    """Fork a process of the forkserver that does a job's part of one rank."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=worker.run_job, args=(job, theirs), name="tuneoff job")
    with hide_main_module():
        process.start()
    theirs.close()
    return RankProcess(process, ours)


def describe_rank(
    rank: int,
    ranks: int,
    rendezvous: socket.socket,
) -> dict[str, str]:
    """What torchrun would put into a rank's environment."""
    host, port = rendezvous.getsockname()
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def start_forkserver() -> None:
    """Start the forkserver, unless it runs: with the libraries, and without a limit of threads (a job has its own)."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    with without_environment(*worker.THREADS):
        forkserver.ensure_running()


@contextmanager
def without_environment(*names: str) -> Iterator[None]:
    """Leave these variables out of the environment; it is as before afterwards."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@cache
def exit_with_the_pool() -> None:
    """In a worker of a launcher's pool (joblib's), which would outlive a SIGKILL of that launcher: end with it."""
    if multiprocessing.current_process().name == "MainProcess":
        return

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)  # our job and the forkserver watch us in their turn

    parent = os.getppid()
    watcher = threading.Thread(target=watch, args=(parent,), daemon=True)
    watcher.start()


@contextmanager
def hide_main_module() -> Iterator[None]:
    """Keep the child from running this program's main file again, as `multiprocessing` would have it do."""
    main: Any = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
