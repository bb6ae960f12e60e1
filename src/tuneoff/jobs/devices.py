"""Which part of the machine a job gets that runs beside others, or in several processes. Asks no torch."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from itertools import islice
from pathlib import Path
from tempfile import gettempdir

from omegaconf import OmegaConf

from tuneoff.jobs.worker import THREADS


def visible_devices() -> list[str]:
    """The GPUs that jobs may use, by the names that CUDA_VISIBLE_DEVICES knows. Asks neither torch nor the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(index) for index in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


OmegaConf.register_new_resolver("cores", available_cores, replace=True)
OmegaConf.register_new_resolver(
    "workers",
    lambda ranks: max(1, (len(visible_devices()) or available_cores()) // ranks),
    replace=True,
)


@contextmanager
def assign_devices(workers: int, ranks: int = 1) -> Iterator[None]:
    """Give a job that runs beside others its part of the machine: free GPUs, or of the cores an equal part.

    Args:
        ranks: processes of the job, each with a GPU or a part of the cores for itself.
    """
    given, found = dict(os.environ), visible_devices()
    with ExitStack() as stack:
        if len(found) > 1:
            mine = list(
                islice(
                    (name for name in found if stack.enter_context(try_lock_device(name))), ranks
                )
            )
            if len(mine) == ranks:  # else there are more jobs than devices, and they share
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        beside = workers * ranks
        if not found and beside > 1 and not any(name in given for name in THREADS):
            os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // beside))
        try:
            yield
        finally:
            for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
                os.environ.pop(name, None)
                os.environ.update({name: given[name]} if name in given else {})


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
