"""Devices: which part of the machine a job gets that runs beside others, or in several processes. Asks no torch."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import gettempdir

from omegaconf import OmegaConf

from tuneoff.jobs.worker import THREADS

ASSIGNED = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def visible_devices() -> list[str]:
    """The GPUs that jobs may use, by the names that CUDA_VISIBLE_DEVICES knows. Asks neither torch nor the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
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
    """Whether `device` was free; it is ours, by a lock that dies with us, until the end."""
    with open(f"{gettempdir()}/tuneoff-device-{os.getuid()}-{device}.lock", "a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
