"""Rank watch: a thread that sees another rank fail or die, while this one may wait for it in a collective for ever.

What a backend does then differs: gloo raises at once, NCCL may wait for hours, and no exception or signal reaches a
thread that waits inside it. So this thread writes the record itself, and ends the process.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tuneoff.distributed.launch import EXIT_LEFT_ALONE
from tuneoff.distributed.ranks import (
    FAILURE_KEY,
    RankLost,
    Ranks,
    connect_to_store,
)
from tuneoff.record import describe_error

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
GRACE_SECONDS = 5.0  # for the backend to say it itself: then the main thread records it
RECORD_SECONDS = 20.0  # to write the record; whoever waits for this process kills it after about 30

Failure = tuple[str, dict]  # status and error, as the record has them


class RankWatch:
    """Watches the other ranks from when it is entered until it is left; alone there is nothing to watch."""

    def __init__(self, ranks: Ranks, record_failure: Callable[[str, dict], Any]):
        """Prepare.

        Args:
            record_failure: writes the record's status and error, as far as this rank writes one.
        """
        self.ranks = ranks
        self.record_failure = record_failure
        self._over = threading.Event()
        self._store: Any = None
        self._processes: dict[int, psutil.Process] = {}

    def __enter__(self) -> "RankWatch":
        if self.ranks.count > 1:
            self._store = connect_to_store()
            process = json.dumps([_machine(), os.getpid()])
            self._store.set(self._key("process"), process)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, error_type: type | None, error: object, traceback: object) -> None:
        """Watch no more; where nothing was raised, tell the others that this one may go."""
        self._over.set()
        if self._store is not None and error_type is None:
            self._store.set(self._key("done"), "")

    def _key(self, name: str, rank: int | None = None) -> str:
        index = self.ranks.index if rank is None else rank
        return f"{FAILURE_KEY}/{name}/{index}"

    def _watch(self) -> None:
        store = connect_to_store()
        while not self._over.wait(POLL_SECONDS):
            failure = self._find_failure(store)
            if failure is None or self._over.wait(GRACE_SECONDS):
                continue
            backstop = threading.Timer(RECORD_SECONDS, os._exit, (EXIT_LEFT_ALONE,))
            backstop.daemon = True
            backstop.start()
            log.error("%s: %s", failure[0], failure[1]["message"])
            try:
                self.record_failure(*failure)
            finally:
                os._exit(EXIT_LEFT_ALONE)

    def _find_failure(self, store: Any) -> Failure | None:
        """What another rank has said of its failure; else of one on this machine, that it is gone."""
        from torch.distributed import DistError

        try:
            if store.check([FAILURE_KEY]):
                index, status, error = json.loads(store.get(FAILURE_KEY))
                if index != self.ranks.index:
                    error["message"] = f"rank {index}: {error['message']}"
                    return status, error
            for rank in range(self.ranks.count):
                if self._is_gone(store, rank):
                    message = f"rank {rank} of {self.ranks.count} has ended without a word"
                    return "killed", describe_error(RankLost(message))
        except DistError:
            # The store is where the launcher is, or with the first rank.
            message = "the store of the launcher, or of the first rank, is gone"
            return "killed", describe_error(RankLost(message))
        return None

    def _is_gone(self, store: Any, rank: int) -> bool:
        """Whether a rank's process, on this machine, has ended before its run did."""
        if rank == self.ranks.index:
            return False
        process = self._processes.get(rank)
        if process is None:
            if not store.check([self._key("process", rank)]):
                return False
            machine, number = json.loads(store.get(self._key("process", rank)))
            if machine != _machine():
                return False
            try:
                process = psutil.Process(number)
            except psutil.NoSuchProcess:
                return not store.check([self._key("done", rank)])
            self._processes[rank] = process
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return False
        return not store.check([self._key("done", rank)])


def _machine() -> str:
    """What names this machine, and the part of it whose processes have numbers that mean the same."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        parts += [boot.read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)
