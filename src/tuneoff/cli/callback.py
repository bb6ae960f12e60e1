"""Hydra's callback: the pre-flight check of a run or a sweep, and the end of one."""

import time
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tuneoff.cli.run_folder import check_same_run, deepest_existing_folder, remove_refused_run
from tuneoff.config import ConfigError, check_config
from tuneoff.distributed.launch import get_rank
from tuneoff.jobs.work import RunFailed
from tuneoff.record import RUN
from tuneoff.sweeps.progress import describe_unfinished, find_recorded_jobs, format_sweep_table


class PreflightCheck(Callback):
    """Hydra calls this before it makes a folder: there a config, or a point of a grid, is still refused in time.

    Hydra turns what a callback raises into a warning, and `one_line` that warning into an error again.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse settings that cannot be used, and a folder whose record this run would overwrite."""
        task = check_config(config)
        if get_rank():
            return
        if task.tuned is not None:
            raise ConfigError("tuned", task.tuned, "is for sweeps, with -m")
        folder = Path(config.hydra.run.dir)
        if (folder / RUN).exists() and task.resume == "never" and not task.rerun:
            raise ConfigError(
                "hydra.run.dir", folder, "holds a run already, and rerun=true would replace it"
            )
        if (folder / RUN).exists() and task.resume != "never":
            check_same_run(task, folder)
        self.there = deepest_existing_folder(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what the sweeper could not do; our own checks each of its points before the first job."""
        self.there, self.began = deepest_existing_folder(Path(config.hydra.sweep.dir)), time.time()
        if config.get("tuned") is not None and not config.hydra.sweeper._target_.endswith(
            ".GridSweeper"
        ):
            raise ConfigError(
                "tuned", config.tuned, "needs hydra/sweeper=grids, which puts the values in"
            )

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say at its end what came of a sweep, and fail with its jobs, for sweepers that do not."""
        if not config.hydra.sweeper._target_.endswith(".GridSweeper"):
            rows = find_recorded_jobs(Path(config.hydra.sweep.dir), self.began)
            print(format_sweep_table(rows))
            if failed := describe_unfinished(rows):
                raise RunFailed(failed)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See whether the folder holds an earlier run."""
        self.earlier = (Path(config.hydra.runtime.output_dir) / RUN).exists()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Leave nothing of a run that only the loaded model or data showed to be wrong, but an earlier one."""
        if (
            isinstance(job_return._return_value, ConfigError)
            and get_rank() == 0
            and not self.earlier
        ):
            remove_refused_run(Path(config.hydra.runtime.output_dir), self.there)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Raise a single run's error here, where Hydra does not yet print a line of its own."""
        if kwargs["job_return"].status is JobStatus.FAILED:
            raise kwargs["job_return"]._return_value
