"""Locks of devices: which of them a run of this user is on. They die with the process that holds them."""

import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import TextIO

from tuneoff.config.settings import MOST_JOBS
from tuneoff.distributed.visible import identify_device
from tuneoff.record.files import cache_folder, make_private_folder

log = logging.getLogger(__name__)


@contextmanager
def try_lock_device(device: str, place: int = 0) -> Iterator[bool]:
    """Whether a place on `device` was free; it is ours, by a lock that dies with us, until the end.

    Where no lock can be made, for whatever reason, the place counts as free: a job that waits for it would for ever.

    Args:
        place: number among the jobs that the device takes at the same time.
    """
    try:
        lock = open_lock(device, place)
    except OSError as error:
        warn_once(f"{error}: no lock for device {device}; jobs may share it")
        yield True
        return
    with lock:
        yield try_lock(lock)


def is_taken_beyond(device: str, places: int) -> bool:
    """Whether a job that shares the device among more has a place beyond these."""
    for place in range(places, MOST_JOBS):
        with try_lock_device(device, place) as free:
            if not free:
                return True
    return False


@cache
def warn_once(text: str) -> None:
    """Log a warning, the first time in this process: each device has several locks."""
    log.warning(text)


def open_lock(device: str, place: int) -> TextIO:
    """Open the lock file of a place on a device, in a folder that only this user writes.

    Raises:
        OSError: neither among the temporary files nor in the cache is there such a folder.
    """
    # A device of a MIG has slashes in its name, and a name may be longer than a file's.
    name = hashlib.sha256(identify_device(device).encode()).hexdigest()[:16]
    file_name = f"device-{name}-{place}.lock"
    temporary = Path(gettempdir()) / f"tuneoff-{os.getuid()}"
    try:
        make_private_folder(temporary)
        return (temporary / file_name).open("a")
    except OSError:  # such as another user's folder of that name
        # The cache may lie on a disk that several machines share, and each has its own devices.
        folder = cache_folder() / "devices"
        make_private_folder(folder)
        return (folder / f"{socket.gethostname()}-{file_name}").open("a")


def try_lock(lock: TextIO) -> bool:
    """Whether we got the lock; not where another process has it. A disk that knows no locks gives it to everybody."""
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warn_once(f"{error}: devices cannot be locked; jobs may share them")
    return True
