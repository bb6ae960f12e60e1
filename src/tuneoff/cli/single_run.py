"""A single run from the command line: in this process, or as the launching process of its ranks."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tuneoff.cli.summary import closing_table
from tuneoff.config import ABSENT, ConfigError, Experiment, Task, bind
from tuneoff.distributed.launch import launched, this_rank
from tuneoff.jobs import supervisor
from tuneoff.jobs.devices import its_share
from tuneoff.jobs.work import RunFailed, perform, started
from tuneoff.jobs.worker import log_as_rank
from tuneoff.record import RESULT, AlreadyDone, read_json


def run(cfg: DictConfig, folder: Path) -> dict:
    """Train what `cfg` describes into `folder` and print the closing table.

    Raises:
        ConfigError: a setting that cannot be used.
        RunFailed: the run ended as anything but finished.
    """
    experiment, method = bind(cfg)
    start = started(cfg, None)
    if experiment.task is Task.predict:
        from tuneoff.predict import show

        result = perform(experiment, method, folder, start)
        show(result, folder)
        return result
    try:
        if launched() == 1 < experiment.num_processes:
            result = in_ranks(experiment, method, folder, start)
        else:
            if launched() > 1:
                from tuneoff.jobs import die_with_parent  # noqa: F401 (a launcher that is killed would leave its ranks behind)
            result = perform(experiment, method, folder, start)
    except AlreadyDone:  # under resume=auto there is nothing left to do
        result = read_json(folder / RESULT) or {}
    if this_rank() == 0:
        print(closing_table(result, folder))
    if result["status"] != "finished":
        error = result["error"]
        raise RunFailed(
            f"{result['status']}: {error['type']}: {error['message']} ({folder / RESULT})"
        )
    return result


def in_ranks(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """Train in `num_processes` processes, started from here; returns the result.

    Raises:
        ConfigError: what only the loaded model or data show to be wrong.
    """
    start = {**start, "method": experiment.method, "seed": experiment.seed}
    with its_share(1, experiment.num_processes):
        supervisor.run(
            partial(as_rank, experiment, method, folder, start),
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


def as_rank(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """`perform` as a rank of a single run, with the log that a single run has."""
    log_as_rank(logging.INFO, logging.FileHandler(folder / "run.log"))
    return perform(experiment, method, folder, start)
