"""A sweep's job as Hydra's launchers call it: skipped where its result is there, else in a process of its own."""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import Experiment, Task, bind
from tuneoff.jobs import supervisor
from tuneoff.jobs.devices import assign_devices
from tuneoff.jobs.work import describe_start, perform
from tuneoff.record import RESULT, RESULTS, AlreadyDone, Busy, read_json, read_status
from tuneoff.sweeps import progress, tuning


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
    if is_done(folder, experiment):
        how = "skipped"
    else:
        start = {
            **describe_start(cfg, method, sweep=Path(hydra.sweep.dir).name),
            "method": experiment.method,
            "seed": experiment.seed,
            "planned_seeds": planned_seeds(hydra, experiment.seed),
            "tuning": tuning.tuning_facts(cfg, list(hydra.overrides.task)),
        }
        job = replace(experiment, resume="never" if experiment.rerun else "auto", progress=False)
        limits = supervisor.Limits(
            job.job_memory_gib, job.job_timeout_seconds, job.job_stall_seconds
        )
        try:
            ranks = 1 if predicts else job.num_processes  # what is foreseen is one rank's memory
            with assign_devices(int(OmegaConf.select(hydra, "launcher.n_jobs") or 1), ranks):
                supervisor.run_supervised(
                    partial(perform, job, method, folder, start),
                    folder,
                    None if predicts else start,
                    limits,
                    folder / "run.log",
                    ranks,
                )
            how = "ran"
        except (Busy, AlreadyDone):
            how = "taken by another launcher"
    outcome = Outcome(folder, "finished") if predicts else read_outcome(folder)
    print(
        progress.format_progress_line(
            hydra, outcome.status, how, outcome.loss, time.monotonic() - began
        ),
        file=sys.stderr,
        flush=True,
    )
    if how == "ran" and experiment.fail_fast and outcome.status != "finished":
        raise SweepStopped(f"{outcome.status}: {folder}")
    return outcome


def is_done(folder: Path, experiment: Experiment) -> bool:
    """Whether `folder` holds a result that a sweep does not try again; a prediction takes seconds, and is made anew."""
    return experiment.task is Task.train and not experiment.rerun and read_status(folder) in RESULTS


def read_outcome(folder: Path) -> Outcome:
    """What a job's record says of its end."""
    result = read_json(folder / RESULT) or {}
    return Outcome(folder, read_status(folder) or "failed", result.get("loss", {}).get("final"))


def planned_seeds(hydra: DictConfig, seed: int) -> list[int]:
    """The seeds that the sweep has for this job's setting, as the grid sweeper wrote them into its overrides."""
    return list(OmegaConf.select(hydra, "sweeper.planned_seeds") or [seed])
