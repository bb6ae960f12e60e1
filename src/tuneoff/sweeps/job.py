"""A sweep's job as Hydra's launchers call it: skipped where its result is there, else in a process of its own."""
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from tempfile import gettempdir

from omegaconf import DictConfig, OmegaConf

from tuneoff import entry, isolate
from tuneoff.config import bind
from tuneoff.record import RESULT, RESULTS, AlreadyDone, Busy, read_json, status
from tuneoff.sweeps import table, tuned


@dataclass
class Outcome:
    """How a job ended; as a number its last validation loss, for sweepers that search."""
    folder: Path
    status: str
    loss: float | None = None

    def __float__(self) -> float:
        if self.loss is None:
            raise ValueError(f"{self.folder}: {self.status}, without a loss")
        return self.loss


class SweepStopped(BaseException):
    """A job failed under fail_fast=true. Not an Exception, because launchers go on after one."""


def run_job(cfg: DictConfig, hydra: DictConfig) -> Outcome:
    """Run one point of a sweep, and print its line. What goes wrong with it is in its record, and raises nothing here.

    Raises:
        SweepStopped: the job failed under fail_fast=true.
        KeyboardInterrupt: the user stopped the sweep; the job's record says `interrupted`.
    """
    began = time.monotonic()
    folder = Path(hydra.runtime.output_dir)
    experiment, method = bind(cfg)
    if done(folder) and not experiment.rerun:
        how = "skipped"
    else:
        start = {**entry.started(cfg, sweep=Path(hydra.sweep.dir).name), "method": experiment.method,
                 "seed": experiment.seed, "planned_seeds": planned_seeds(hydra, experiment.seed),
                 "tuning": tuned.facts(cfg, list(hydra.overrides.task))}
        job = replace(experiment, resume="never" if experiment.rerun else "auto", progress=False)
        limits = isolate.Limits(job.job_memory_gib, job.job_timeout_seconds, job.job_stall_seconds)
        try:
            with a_device_of_its_own():
                isolate.run(partial(entry.perform, job, method, folder, start), folder, start, limits,
                            folder / "run.log")
            how = "ran"
        except (Busy, AlreadyDone):
            how = "taken by another launcher"
    outcome = read(folder)
    print(table.progress_line(hydra, outcome.status, how, outcome.loss, time.monotonic() - began), file=sys.stderr,
          flush=True)
    if how == "ran" and experiment.fail_fast and outcome.status != "finished":
        raise SweepStopped(f"{outcome.status}: {folder}")
    return outcome


def done(folder: Path) -> bool:
    """Whether `folder` holds a result that a sweep does not try again, or a prediction."""
    return status(folder) in RESULTS or (folder / table.PREDICTION).exists()


def read(folder: Path) -> Outcome:
    """What a job's record says of its end."""
    result = read_json(folder / RESULT) or {}
    if not result and (folder / table.PREDICTION).exists():
        return Outcome(folder, "finished")
    return Outcome(folder, status(folder) or "failed", result.get("loss", {}).get("final"))


def planned_seeds(hydra: DictConfig, seed: int) -> list[int]:
    """The seeds that the sweep has for this job's setting, as the grid sweeper wrote them into its overrides."""
    return list(OmegaConf.select(hydra, "sweeper.planned_seeds") or [seed])


@contextmanager
def a_device_of_its_own() -> Iterator[None]:
    """Where there are several GPUs, make the first free one the only visible one; a lock says which are taken."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = Path("/proc/driver/nvidia/gpus")
    devices = visible.split(",") if visible else [str(i) for i in range(len(list(gpus.glob("*"))))]
    if len(devices) < 2:
        yield
        return
    for device in [*devices, None]:
        if device is None:  # more jobs than devices: they share, as without us
            yield
            return
        with open(f"{gettempdir()}/tuneoff-device-{os.getuid()}-{device}.lock", "a") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            try:
                yield
            finally:
                os.environ.pop("CUDA_VISIBLE_DEVICES") if visible is None else os.environ.update(
                    CUDA_VISIBLE_DEVICES=visible)
            return
