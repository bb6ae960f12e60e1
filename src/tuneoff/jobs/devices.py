"""Devices: which part of the machine a job gets that runs beside others, or in several processes. Asks no torch."""

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from omegaconf import OmegaConf

from tuneoff.config import ConfigError
from tuneoff.distributed.visible import visible_devices
from tuneoff.jobs.device_locks import is_taken_beyond, try_lock_device
from tuneoff.jobs.worker import THREADS

log = logging.getLogger(__name__)

ASSIGNED = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
WAIT_SECONDS = 0.5  # between two looks for a free device


@dataclass(frozen=True)
class Share:
    """What a job asks of the machine.

    Attributes:
        ranks: its processes, each with a GPU or a part of the cores for itself.
        jobs_at_once: jobs that run at the same time, between which the cores are shared out where there are no GPUs.
        jobs_per_device: jobs that a GPU takes at the same time.
        uses_devices: whether it computes on a GPU where there is one; a prediction does not.
    """

    ranks: int = 1
    jobs_at_once: int = 1
    jobs_per_device: int = 1
    uses_devices: bool = True


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jobs_at_once(ranks: int, jobs_per_device: int = 1) -> int:
    """Jobs of so many ranks that this machine has GPUs for, or cores where it has none."""
    units = len(visible_devices()) * jobs_per_device or available_cores()
    return max(1, units // max(1, ranks))  # 0 ranks are refused where the settings are checked


def share_of_devices(ranks: int, jobs_per_device: int = 1) -> float:
    """The GPUs that a job takes, for a launcher that hands them out: a part of one where jobs share; 0 without any."""
    if not visible_devices():
        return 0
    return ranks / max(1, jobs_per_device) if ranks == 1 else ranks


OmegaConf.register_new_resolver("cores", available_cores, replace=True)
OmegaConf.register_new_resolver("workers", jobs_at_once, replace=True)
OmegaConf.register_new_resolver("gpus", share_of_devices, replace=True)


def check_enough_devices(ranks: int) -> None:
    """Refuse more ranks on this machine than it has GPUs: NCCL takes no two on one.

    Raises:
        ConfigError: naming num_processes. A machine without any GPU trains them on its cores.
    """
    devices = visible_devices()
    if devices and ranks > len(devices):
        allowed = f"must be at most {len(devices)}, one for each GPU that is visible here"
        raise ConfigError("num_processes", ranks, allowed)


@contextmanager
def assign_devices(share: Share) -> Iterator[None]:
    """Give a job its part of the machine: so many GPUs, for which it waits, or of the cores an equal part.

    Raises:
        ConfigError: it has more ranks than there are GPUs.
    """
    before = {name: os.environ[name] for name in ASSIGNED if name in os.environ}
    devices = visible_devices() if share.uses_devices else []
    with ExitStack() as locks:
        if devices:
            check_enough_devices(share.ranks)
            ours = wait_for_devices(devices, share, locks)
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ours)
        else:
            _share_cores(share)
        try:
            yield
        finally:
            for name in ASSIGNED:
                os.environ.pop(name, None)
            os.environ.update(before)


def _share_cores(share: Share) -> None:
    """Limit a job's threads to its part of the cores, unless the user has said how many it shall have."""
    processes = share.jobs_at_once * share.ranks
    threads_given = any(name in os.environ for name in THREADS)
    if processes > 1 and not threads_given and not visible_devices():
        os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // processes))


def wait_for_devices(devices: list[str], share: Share, locks: ExitStack) -> list[str]:
    """Lock as many devices as the job has ranks, until `locks` is closed; wait where too few have room."""
    waits = False
    while True:
        ours = lock_devices(devices, share, locks)
        if len(ours) == share.ranks:
            return ours
        if not waits:
            log.warning(
                "all of %s are in use by other runs of yours; this job waits (jobs_per_device=%d)",
                ", ".join(devices),
                share.jobs_per_device,
            )
            waits = True
        # By chance, so that two jobs which each want several do not take and return them in step.
        time.sleep(WAIT_SECONDS * random.uniform(0.5, 1.5))


def lock_devices(devices: list[str], share: Share, locks: ExitStack) -> list[str]:
    """Lock a place on as many devices as the job has ranks; nothing where too few have one.

    Every device's first place goes before any second one, so that jobs which share are spread evenly.
    """
    with ExitStack() as attempt:
        ours: list[str] = []
        for place in range(share.jobs_per_device):
            for device in devices:
                if len(ours) == share.ranks or device in ours:
                    continue
                is_free = attempt.enter_context(try_lock_device(device, place))
                if is_free and not is_taken_beyond(device, share.jobs_per_device):
                    ours.append(device)
        if len(ours) < share.ranks:
            return []
        locks.push(attempt.pop_all())
    # In the order in which they are visible, so that equal jobs see equal devices.
    return sorted(ours, key=devices.index)


@contextmanager
def hold_device(rank: int, choose: bool) -> Iterator[None]:
    """Hold a device for a run that was started by itself, which does not wait: it says so where it shares one.

    Args:
        rank: number of the device among the visible ones, which a launcher's rank takes.
        choose: whether the run may take another one that is free, as a run in one process does.
    """
    devices = visible_devices()
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with ExitStack() as locks:
        if devices:
            wanted = devices if choose else devices[rank : rank + 1]
            ours = lock_devices(wanted, Share(), locks)
            if not ours:
                log.warning(
                    "another run of yours is on %s: they share it, and neither's speed is its own",
                    ", ".join(wanted),
                )
            elif choose:
                os.environ["CUDA_VISIBLE_DEVICES"] = ours[0]
        try:
            yield
        finally:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before
