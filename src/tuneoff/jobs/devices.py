"""Devices: which part of the machine a job gets that runs beside others, or in several processes. Asks no torch."""

import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import gettempdir
from typing import TextIO

from omegaconf import OmegaConf

from tuneoff.jobs.worker import THREADS
from tuneoff.record.files import cache_folder, make_private_folder

log = logging.getLogger(__name__)

ASSIGNED = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def visible_devices() -> list[str]:
    """The GPUs that jobs may use, by the names that CUDA_VISIBLE_DEVICES knows. Asks neither torch nor the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [name for name in names if name]
    gpus = list(Path("/proc/driver/nvidia/gpus").glob("*"))
    return [str(index) for index in range(len(gpus))]


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jobs_at_once(ranks: int) -> int:
    """Jobs of so many ranks that this machine has GPUs for, or cores where it has none."""
    units = len(visible_devices()) or available_cores()
    return max(1, units // ranks)


OmegaConf.register_new_resolver("cores", available_cores, replace=True)
OmegaConf.register_new_resolver("workers", jobs_at_once, replace=True)


@contextmanager
def assign_devices(workers: int, ranks: int = 1) -> Iterator[None]:
    """Give a job that runs beside others its part of the machine: free GPUs, or of the cores an equal part.

    Args:
        workers: jobs that run at the same time.
        ranks: processes of the job, each with a GPU or a part of the cores for itself.
    """
    before = {name: os.environ[name] for name in ASSIGNED if name in os.environ}
    devices = visible_devices()
    processes = workers * ranks
    with ExitStack() as locks:
        if len(devices) > 1:
            ours = lock_free_devices(devices, ranks, locks)
            if len(ours) == ranks:  # else there are more jobs than devices, and they share
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ours)
        threads_given = any(name in os.environ for name in THREADS)
        if not devices and processes > 1 and not threads_given:
            os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // processes))
        try:
            yield
        finally:
            for name in ASSIGNED:
                os.environ.pop(name, None)
            os.environ.update(before)


def lock_free_devices(devices: list[str], count: int, locks: ExitStack) -> list[str]:
    """Lock so many of the devices that are free, or all of those where they are fewer, until `locks` is closed."""
    ours: list[str] = []
    for device in devices:
        if len(ours) == count:
            break
        if locks.enter_context(try_lock_device(device)):
            ours.append(device)
    return ours


@contextmanager
def try_lock_device(device: str) -> Iterator[bool]:
    """Whether `device` was free; it is ours, by a lock that dies with us, until the end.

    Where no lock can be made, for whatever reason, the device counts as taken: jobs then share devices.
    """
    try:
        lock = open_lock(device)
    except OSError as error:
        log.warning("%s: no lock for device %s; jobs may share it", error, device)
        yield False
        return
    with lock:
        yield try_lock(lock)


def open_lock(device: str) -> TextIO:
    """Open the lock file of a device, in a folder that only this user writes.

    Raises:
        OSError: neither among the temporary files nor in the cache is there such a folder.
    """
    # A device of a MIG has slashes in its name, and a name may be longer than a file's.
    name = hashlib.sha256(device.encode()).hexdigest()[:16]
    temporary = Path(gettempdir()) / f"tuneoff-{os.getuid()}"
    try:
        make_private_folder(temporary)
        return (temporary / f"device-{name}.lock").open("a")
    except OSError:  # such as another user's folder of that name
        # The cache may lie on a disk that several machines share, and each has its own devices.
        folder = cache_folder() / "devices"
        make_private_folder(folder)
        return (folder / f"{socket.gethostname()}-{name}.lock").open("a")


def try_lock(lock: TextIO) -> bool:
    """Whether we got the lock; not where another process has it, or on a disk that knows no locks."""
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except OSError:
        return False
    return True
