"""A single run from the command line: in this process, or as the launching process of its ranks."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tuneoff.cli.summary import print_summary
from tuneoff.config import bind
from tuneoff.distributed.launch import (
    get_local_rank,
    get_local_world_size,
    get_rank,
    get_world_size,
)
from tuneoff.jobs import supervisor
from tuneoff.jobs.devices import Share, assign_devices, check_enough_devices, hold_device
from tuneoff.jobs.failures import Refusal, RunFailed
from tuneoff.jobs.work import WORKS, TrainWork, Work, describe_start
from tuneoff.jobs.worker import log_as_rank
from tuneoff.record import RESULT, AlreadyDone, NeverBegan, format_failure, read_json
from tuneoff.sweeps.progress import PAUSED, name_status


def run_single(cfg: DictConfig, folder: Path) -> dict:
    """Do what `cfg` describes in `folder`, and print the closing table.

    Raises:
        ConfigError: a setting that cannot be used.
        RunFailed: the run ended as anything but finished, or paused by `stop_after`.
    """
    words = HydraConfig.get().overrides.task
    written = [word.lstrip("+").partition("=")[0] for word in words]
    experiment, method = bind(cfg, written)
    start = describe_start(cfg, method, sweep=None)
    work = WORKS[experiment.task](experiment, method, folder, start)
    try:
        result = run_work(work)
    except AlreadyDone:  # under resume=auto there is nothing left to do
        result = read_json(folder / RESULT) or {}
    except NeverBegan as failure:
        raise RunFailed(str(failure)) from failure
    status = name_status(str(result.get("status")), folder)
    if get_rank() == 0:
        print_summary(work, {**result, "status": status})
    error = result.get("error")
    if status == PAUSED and error:
        if get_rank() == 0:
            print(error["message"], file=sys.stderr)
        return result
    if error:
        message = format_failure(result["status"], error)
        raise RunFailed(f"{message} ({folder / work.result_file})")
    return result


def run_work(work: Work) -> dict:
    """Do the work in this process, or in ranks that are started from here; returns the result.

    Raises:
        ConfigError: more ranks than GPUs, or what only the loaded model or data show to be wrong.
        AlreadyDone: another process has finished this run in the meantime.
    """
    launched = get_world_size()
    if launched == 1 < work.ranks:
        return run_in_ranks(work)
    if launched > 1:
        # A launcher that is killed would leave its ranks behind.
        from tuneoff.jobs import die_with_parent  # noqa: F401
    if not work.uses_devices:
        return work.run()
    check_enough_devices(get_local_world_size())
    with hold_device(get_local_rank(), choose=launched == 1):
        if launched > 1 and get_rank() == 0:
            first = FirstRank(work.experiment, work.method, work.folder, work.start)
            return run_supervised(first)
        return work.run()


def run_in_ranks(work: Work) -> dict:
    """Train in `num_processes` processes, started from here; returns the result.

    Raises:
        ConfigError: what only the loaded model or data show to be wrong.
    """
    ranked = RankedTraining(work.experiment, work.method, work.folder, work.start)
    share = Share(work.ranks, jobs_per_device=work.experiment.jobs_per_device)
    with assign_devices(share):
        return run_supervised(ranked)


def run_supervised(work: TrainWork) -> dict:
    """Train in processes of their own, so that a record is left however they end; returns the result.

    Raises:
        ConfigError: what only the loaded model or data show to be wrong.
    """
    limits = supervisor.Limits(grace_seconds=work.experiment.grace_seconds)
    earlier_result = supervisor.identify_result(work)
    try:
        failure = supervisor.run_supervised(work, limits)
    except KeyboardInterrupt:
        if supervisor.identify_result(work) in (None, earlier_result):
            raise
        # The first rank has written what was saved, and how to go on; or it was done already.
        return read_json(work.folder / work.result_file) or {}
    if failure is not None and isinstance(failure.cause, Refusal):
        raise failure.cause.to_error()
    return read_json(work.folder / work.result_file) or {}


@dataclass(frozen=True)
class RankedTraining(TrainWork):
    """Training as a rank of a single run, with the log that a single run has."""

    records_refusals = False

    def run(self) -> dict:
        """Train, and log to the run's file as well."""
        log_as_rank(logging.INFO, logging.FileHandler(self.folder / "run.log", encoding="utf-8"))
        return super().run()


@dataclass(frozen=True)
class FirstRank(RankedTraining):
    """Training as the first of the ranks that a launcher has started, in a process of its own."""

    @property
    def ranks(self) -> int:
        """One: the launcher has started the others."""
        return 1
