"""The callback that Hydra calls: the pre-flight check of a run or a sweep, and the end of one."""

import sys
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tuneoff.cli.hydra_files import list_settings_files, mask_hydra_files
from tuneoff.cli.run_folder import (
    check_in_other_ranks,
    check_resumed_run,
    describe_resume,
    find_output_folder,
    list_written_files,
    refuse_folder_in_use,
    remove_refused_run,
)
from tuneoff.config import ConfigError, Experiment, Task, check_config
from tuneoff.distributed.launch import get_rank
from tuneoff.distributed.stop import raise_if_stopped
from tuneoff.jobs.failures import RunFailed
from tuneoff.jobs.next_commands import describe_results
from tuneoff.record import deepest_existing, holds_run
from tuneoff.record.files import write_atomically
from tuneoff.sweeps.composition import refuse_chdir
from tuneoff.sweeps.progress import (
    JobRow,
    describe_unfinished,
    find_recorded_jobs,
    format_sweep_table,
)


class OpenSweep(NamedTuple):
    """A sweep of a sweeper that prints no table, from its start to its end."""

    folder: Path
    started: float  # seconds of the epoch

    def find_jobs(self) -> list[JobRow]:
        """The jobs that it has started."""
        return find_recorded_jobs(self.folder, self.started)


# At most one; Hydra calls nobody when a signal or an error ends a sweep.
OPEN_SWEEPS: list[OpenSweep] = []


# Our YAML of a launcher has the plugin's name and its types; Hydra 1.3 merges the two, and says it will not always: in
# each of joblib's workers too, which import this module and not the command's.
VALIDATED_BY_NAME = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
warnings.filterwarnings("ignore", message=VALIDATED_BY_NAME)
# What only a sweep does; at its default it is not asked for.
SWEEP_SETTINGS = (
    "tuned_anyway",
    "tuning_schedule",
    "fail_fast",
    "job_memory_gib",
    "job_timeout_seconds",
    "job_stall_seconds",
)


def print_open_sweeps() -> None:
    """Say what came of the jobs of a sweep that did not come to its end."""
    while OPEN_SWEEPS:
        rows = OPEN_SWEEPS.pop().find_jobs()
        if rows:
            print(format_sweep_table(rows))


def has_grid_sweeper(config: DictConfig) -> bool:
    """Whether the sweep is our sweeper's, which checks its points and prints its table itself."""
    return config.hydra.sweeper._target_.endswith(".GridSweeper")


class PreflightCheck(Callback):
    """Checks a config, or a point of a grid, before Hydra makes a folder, so that a refusal leaves nothing.

    Hydra turns what a callback raises into a warning, and `one_line` that warning into an error again.
    """

    earlier_files: Collection[str] = ()  # that a single run's folder held before it
    # The settings in it, which Hydra replaces before a run is refused for what is loaded.
    earlier_settings: Mapping[Path, bytes] = {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse settings that cannot be used, and a folder whose record this run would overwrite."""
        raise_if_stopped()
        refuse_chdir(config)
        task = check_config(config)
        if get_rank():
            check_in_other_ranks(task, Path(config.hydra.run.dir))
            return
        if task.tuned is not None:
            raise ConfigError("tuned", task.tuned, "is for sweeps, with -m")
        for key in SWEEP_SETTINGS:
            if task[key] != getattr(Experiment, key):
                raise ConfigError(key, task[key], "is for sweeps, with -m")
        if task.dry_run:
            allowed = "is for sweeps, with -m; --cfg job --resolve shows a single run's settings"
            raise ConfigError("dry_run", True, allowed)
        if task.device is not None and task.task is Task.train:
            allowed = (
                "is for task=predict, and for sweeps; a run trains on the device that it finds"
            )
            raise ConfigError("device", task.device, allowed)
        folder = find_output_folder(config, "hydra.run.dir")
        refuse_folder_in_use(task, folder)
        if task.resume != "never":
            check_resumed_run(task, folder)
            print(describe_resume(task.resume, folder), file=sys.stderr)
        elif holds_run(folder) and not task.rerun:
            allowed = "holds a run already, and rerun=true would replace it"
            raise ConfigError("hydra.run.dir", folder, allowed)
        self.existing_folder = deepest_existing(folder)
        self.earlier_files = list_written_files(folder)
        files = list_settings_files(config, folder)
        self.earlier_settings = {path: path.read_bytes() for path in files}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what the sweeper could not do; our own checks each of its points before the first job."""
        raise_if_stopped()
        refuse_chdir(config)
        if "resume=never" in config.hydra.overrides.task:
            allowed = "is for a single run; in a sweep rerun=true begins jobs anew"
            raise ConfigError("resume", "never", allowed)
        if OmegaConf.select(config, "hydra.launcher.n_jobs") == 0:
            allowed = "must be at least 1, or -1 for as many as there are cores"
            raise ConfigError("hydra.launcher.n_jobs", 0, allowed)
        self.existing_folder = deepest_existing(find_output_folder(config, "hydra.sweep.dir"))
        if has_grid_sweeper(config):
            return
        if config.get("tuned") is not None:
            allowed = "needs hydra/sweeper=grids, which puts the values in"
            raise ConfigError("tuned", config.tuned, allowed)
        if config.get("dry_run"):
            allowed = "needs hydra/sweeper=grids, which knows its jobs before the first starts"
            raise ConfigError("dry_run", True, allowed)
        OPEN_SWEEPS.append(OpenSweep(Path(config.hydra.sweep.dir), time.time()))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say at its end what came of a sweep, and fail with its jobs, for sweepers that do not."""
        if has_grid_sweeper(config):
            return
        sweep = OPEN_SWEEPS.pop()
        rows = sweep.find_jobs()
        print("\n".join([format_sweep_table(rows), *describe_results(sweep.folder)]))
        unfinished = describe_unfinished(rows)
        if unfinished:
            raise RunFailed(unfinished)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Mask the secrets in Hydra's files, and see whether the folder holds an earlier run.

        Raises:
            StopSignal: one came before there was a run that could hear it, and was swallowed.
        """
        raise_if_stopped()
        if get_rank() == 0:
            mask_hydra_files(config)
        folder = Path(config.hydra.runtime.output_dir)
        self.holds_earlier_run = holds_run(folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Leave nothing of a run that only the loaded model or data showed to be wrong; an earlier one is as it was."""
        if config.hydra.mode is RunMode.MULTIRUN:
            # The launcher keeps what each job returns to the end, and nobody asks for these again.
            job_return.cfg = None
            job_return.hydra_cfg = None
        refused = isinstance(job_return._return_value, ConfigError)
        if not refused or get_rank():
            return
        if self.holds_earlier_run and config.hydra.mode is RunMode.MULTIRUN:
            return  # what a job's folder held before its sweep has not been read
        for path, content in self.earlier_settings.items():
            write_atomically(path, content)
        folder = Path(config.hydra.runtime.output_dir)
        remove_refused_run(folder, self.existing_folder, self.earlier_files)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Raise a single run's error here, where Hydra does not yet print a line of its own."""
        if kwargs["job_return"].status is JobStatus.FAILED:
            raise kwargs["job_return"]._return_value
