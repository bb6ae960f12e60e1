"""A single run from the command line: in this process, or as the launching process of its ranks."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tuneoff.cli.summary import format_run_summary
from tuneoff.config import ABSENT, ConfigError, Experiment, Task, bind
from tuneoff.distributed.launch import get_rank, get_world_size
from tuneoff.jobs import supervisor
from tuneoff.jobs.devices import assign_devices
from tuneoff.jobs.work import RunFailed, describe_start, perform
from tuneoff.jobs.worker import log_as_rank
from tuneoff.record import RESULT, AlreadyDone, read_json


def run_single(cfg: DictConfig, folder: Path) -> dict:
    """Train what `cfg` describes into `folder` and print the closing table.

    Raises:
        ConfigError: a setting that cannot be used.
        RunFailed: the run ended as anything but finished.
    """
    experiment, method = bind(cfg)
    start = describe_start(cfg, method, None)
    if experiment.task is Task.predict:
        from tuneoff.predict import show_prediction

        result = perform(experiment, method, folder, start)
        show_prediction(result, folder)
        return result
    try:
        if get_world_size() == 1 < experiment.num_processes:
            result = run_in_ranks(experiment, method, folder, start)
        else:
            if get_world_size() > 1:
                from tuneoff.jobs import die_with_parent  # noqa: F401 (a launcher that is killed would leave its ranks behind)
            result = perform(experiment, method, folder, start)
    except AlreadyDone:  # under resume=auto there is nothing left to do
        result = read_json(folder / RESULT) or {}
    if get_rank() == 0:
        print(format_run_summary(result, folder))
    if result["status"] != "finished":
        error = result["error"]
        raise RunFailed(
            f"{result['status']}: {error['type']}: {error['message']} ({folder / RESULT})"
        )
    return result


def run_in_ranks(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """Train in `num_processes` processes, started from here; returns the result.

    Raises:
        ConfigError: what only the loaded model or data show to be wrong.
    """
    start = {**start, "method": experiment.method, "seed": experiment.seed}
    with assign_devices(1, experiment.num_processes):
        supervisor.run_supervised(
            partial(run_as_rank, experiment, method, folder, start),
            folder,
            start,
            supervisor.Limits(),
            ranks=experiment.num_processes,
        )
    result = read_json(folder / RESULT) or {}
    error = result.get("error") or {}
    if error.get("type") == ConfigError.__name__:
        raise ConfigError(
            error["message"].partition(": ")[0], ABSENT, error["message"].partition(": ")[2]
        )
    return result


def run_as_rank(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """`perform` as a rank of a single run, with the log that a single run has."""
    log_as_rank(logging.INFO, logging.FileHandler(folder / "run.log"))
    return perform(experiment, method, folder, start)
