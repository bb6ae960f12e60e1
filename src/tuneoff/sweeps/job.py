"""A sweep's job as Hydra's launchers call it: skipped where its result is there, else in a process of its own."""
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from tempfile import gettempdir

from omegaconf import DictConfig, OmegaConf

from tuneoff import entry, isolate
from tuneoff.config import Experiment, Task, bind
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
    predicts = experiment.task is Task.predict
    if done(folder, experiment):
        how = "skipped"
    else:
        start = {**entry.started(cfg, sweep=Path(hydra.sweep.dir).name), "method": experiment.method,
                 "seed": experiment.seed, "planned_seeds": planned_seeds(hydra, experiment.seed),
                 "tuning": tuned.facts(cfg, list(hydra.overrides.task))}
        job = replace(experiment, resume="never" if experiment.rerun else "auto", progress=False)
        limits = isolate.Limits(job.job_memory_gib, job.job_timeout_seconds, job.job_stall_seconds)
        try:
            with its_share(int(OmegaConf.select(hydra, "launcher.n_jobs") or 1)):
                isolate.run(partial(entry.perform, job, method, folder, start), folder, None if predicts else start,
                            limits, folder / "run.log")
            how = "ran"
        except (Busy, AlreadyDone):
            how = "taken by another launcher"
    outcome = Outcome(folder, "finished") if predicts else read(folder)
    print(table.progress_line(hydra, outcome.status, how, outcome.loss, time.monotonic() - began), file=sys.stderr,
          flush=True)
    if how == "ran" and experiment.fail_fast and outcome.status != "finished":
        raise SweepStopped(f"{outcome.status}: {folder}")
    return outcome


def done(folder: Path, experiment: Experiment) -> bool:
    """Whether `folder` holds a result that a sweep does not try again; a prediction takes seconds, and is made anew."""
    return experiment.task is Task.train and not experiment.rerun and status(folder) in RESULTS


def read(folder: Path) -> Outcome:
    """What a job's record says of its end."""
    result = read_json(folder / RESULT) or {}
    return Outcome(folder, status(folder) or "failed", result.get("loss", {}).get("final"))


def planned_seeds(hydra: DictConfig, seed: int) -> list[int]:
    """The seeds that the sweep has for this job's setting, as the grid sweeper wrote them into its overrides."""
    return list(OmegaConf.select(hydra, "sweeper.planned_seeds") or [seed])


# ---------------------------------------------------------------- jobs side by side
def devices() -> list[str]:
    """The GPUs that jobs may use, by the names that CUDA_VISIBLE_DEVICES knows. Asks neither torch nor the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(index) for index in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


OmegaConf.register_new_resolver("cores", cores, replace=True)
OmegaConf.register_new_resolver("workers", lambda: len(devices()) or cores(), replace=True)


@contextmanager
def its_share(workers: int) -> Iterator[None]:
    """Give a job that runs beside others its part of the machine: the first free GPU, or of the cores an equal part."""
    given, found = dict(os.environ), devices()
    with ExitStack() as stack:
        if len(found) > 1:
            mine = next((name for name in found if stack.enter_context(taken(name))), None)
            if mine is not None:  # else there are more jobs than devices, and they share
                os.environ["CUDA_VISIBLE_DEVICES"] = mine
        if not found and workers > 1 and not any(name in given for name in isolate.THREADS):
            os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // workers))
        try:
            yield
        finally:
            for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
                os.environ.pop(name, None)
                os.environ.update({name: given[name]} if name in given else {})


@contextmanager
def taken(device: str) -> Iterator[bool]:
    """Whether `device` was free; it is ours, by a lock that dies with us, until the end."""
    with open(f"{gettempdir()}/tuneoff-device-{os.getuid()}-{device}.lock", "a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
