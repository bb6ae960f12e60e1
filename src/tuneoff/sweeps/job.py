"""A sweep's job as Hydra's launchers call it: skipped where its result is there, else in a process of its own."""

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, bind, find_lr_source, resolve_config
from tuneoff.jobs import supervisor
from tuneoff.jobs.devices import Share, assign_devices
from tuneoff.jobs.failures import JobFailed
from tuneoff.jobs.work import WORKS, Work, describe_start
from tuneoff.record import AlreadyDone, Busy, describe_error
from tuneoff.record.console import prepare_console
from tuneoff.sweeps import progress, tuning
from tuneoff.sweeps.launchers import count_jobs_at_once

RAN = "ran"
SKIPPED = "skipped"
TAKEN = "taken by another launcher"


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
        JobFailed: it left no record of that, as a prediction, or a run that failed over an earlier result.
        KeyboardInterrupt: the user stopped the sweep; the job's record says `interrupted`.
    """
    started = time.monotonic()
    prepare_console()  # of a launcher's worker, too
    enter_start_folder(hydra)
    folder = Path(hydra.runtime.output_dir)
    experiment, method = bind(cfg)
    work_type = WORKS[experiment.task]
    unrecorded: JobFailed | None = None
    if work_type.is_done(folder, experiment):
        how = SKIPPED
    else:
        resume = "never" if experiment.rerun else "auto"
        experiment = replace(experiment, resume=resume, progress=False)
        work = work_type(experiment, method, folder, describe_job(cfg, method, hydra))
        try:
            how = run_beside_others(work, count_jobs_at_once(hydra))
        except JobFailed as failure:
            how = RAN
            unrecorded = failure
    outcome = Outcome(folder, work_type.read_status(folder), work_type.read_loss(folder))
    status = progress.name_status(outcome.status, folder)
    losses = work_type.describe_losses(folder)
    if unrecorded is not None:  # what the folder holds is an earlier result
        status = "failed"
        losses = ""
    seconds = time.monotonic() - started
    line = progress.format_progress_line(hydra, status, how, losses, seconds)
    print(line, file=sys.stderr, flush=True)
    has_failed = status not in ("finished", progress.PAUSED)
    if how == RAN and experiment.fail_fast and has_failed:
        raise SweepStopped(describe_failure(outcome, unrecorded))
    if unrecorded is not None:
        raise unrecorded
    return outcome


def describe_failure(outcome: Outcome, unrecorded: JobFailed | None) -> str:
    """Why a job ends its sweep: what its record says, or what no record does."""
    if unrecorded is None:
        return f"{outcome.status}: {outcome.folder}"
    return f"failed: {unrecorded} ({outcome.folder})"


def enter_start_folder(hydra: DictConfig) -> None:
    """Go to the folder in which the sweep was started, from which paths are: a launcher's worker may be in another."""
    folder = Path(hydra.runtime.cwd)
    if folder.is_dir() and folder != Path.cwd():
        os.chdir(folder)


def run_beside_others(work: Work, jobs_at_once: int) -> str:
    """Do the work with its part of the machine and within its limits; returns what was done with the job."""
    experiment = work.experiment
    limits = supervisor.Limits(
        experiment.job_memory_gib,
        experiment.job_timeout_seconds,
        experiment.job_stall_seconds,
        experiment.grace_seconds,
    )
    share = Share(work.ranks, jobs_at_once, experiment.jobs_per_device, work.uses_devices)
    try:
        with assign_devices(share):
            supervisor.run_supervised(work, limits, work.folder / "run.log")
    except ConfigError as error:  # what only the machine that the job came to shows
        work.record_failure("failed", describe_error(error), 0.0)
    except (Busy, AlreadyDone):
        return TAKEN
    return RAN


def describe_job(cfg: DictConfig, method: Any, hydra: DictConfig) -> dict:
    """What a record says of how its run was started, and of its place in the sweep."""
    start = describe_start(cfg, method, sweep=Path(hydra.sweep.dir).name)
    start["varied"] = list(OmegaConf.select(hydra, "sweeper.varied") or [])
    start["planned_seeds"] = read_planned_seeds(hydra, cfg.seed)
    trials = tuning.describe_tuning(resolve_config(cfg), list(hydra.overrides.task))
    start["tuning"] = trials
    if trials is not None:
        was_tuned = "lr" in trials["best"] and "lr" not in trials["overridden"]
        start["lr_source"] = find_lr_source(cfg, was_tuned)
    return start


def read_planned_seeds(hydra: DictConfig, seed: int) -> list[int]:
    """The seeds that the sweep has for this job's setting, as the grid sweeper wrote them into its overrides."""
    return list(OmegaConf.select(hydra, "sweeper.planned_seeds") or [seed])
