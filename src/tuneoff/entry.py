"""From a composed config to a finished run, and from any error to one line. Imports no torch until a run begins."""
import copy
import gc
import logging
import re
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from yaml import MarkedYAMLError

from tuneoff.config import ABSENT, ConfigError, Experiment, Task, bind, identity, resolved, schemas
from tuneoff.errors import explain
from tuneoff.ranks import launched, this_rank
from tuneoff.record import LOCK, METRICS, RESULT, RETRIED, RUN, conclude, read_json, status, write_prediction

log = logging.getLogger(__name__)
# Our YAML of a launcher has the plugin's name and its types; Hydra 1.3 merges the two, and says it will not for ever.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
# Hydra's part in a rank beside the first: no folder, no file, and a log of what is wrong.
SILENT = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.job_logging.handlers.file.filename=/dev/null",
          "hydra.job_logging.root.level=WARNING"]
COMMAND = list(sys.argv)  # as the user wrote it, for the record


class RunFailed(RuntimeError):
    """A run that ended without a usable result; its record says why."""


def checked(cfg: DictConfig) -> DictConfig:
    """The task's part of a composed config.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    task = copy.deepcopy(cfg)
    with open_dict(task):
        hydra = task.pop("hydra", None)
    written = list(hydra.overrides.task) if hydra else []
    added = [text for text in written if re.match(r"\+[^+]", text)]
    # Hydra would append a second choice, whose defaults silently replace what the method's YAML says.
    second = [text for text in added if text.startswith("+schema=")]
    if not second:
        bind(task)  # it knows the key's nearest name
    for override in second or added:
        raise ConfigError(override, ABSENT, "nothing can be added; an option is written key=value")
    for key, _, value in (text.partition("=") for text in written):
        # OmegaConf takes any number, and much else, for a boolean.
        if isinstance(OmegaConf.select(task, key), bool) and value.lower() not in ("true", "false"):
            raise ConfigError(key, value, "must be true or false")
    return task


def checked_identity(*, _root_: DictConfig) -> str:
    """`${identity:}`: names a run's folder, so a config is refused before any folder is made."""
    return identity(checked(_root_))


def run_folder(parent: str, time: str, *, _root_: DictConfig) -> str:
    """`${run_folder:PARENT,TIME}`: a single run's new folder, or with `resume` the one to go on in."""
    task = checked(_root_)
    name, resume = identity(task), task.resume
    if resume == "auto":
        earlier = sorted(Path(parent).glob(f"*_{name}"), reverse=True)
        return str(next((folder for folder in earlier if status(folder) in RETRIED), f"{parent}/{time}_{name}"))
    return f"{parent}/{time}_{name}" if resume == "never" else resume


def refuse_another_run(task: DictConfig, folder: Path) -> None:
    """Let no run go on in the `folder` of one with other settings.

    Raises:
        ConfigError: what is there has another identity.
    """
    found, name = (read_json(folder / RUN) or {}).get("identity"), identity(task)
    if found != name:
        raise ConfigError("resume", task.resume, f"{folder} holds run {found}, and these settings make {name}")


OmegaConf.register_new_resolver("identity", checked_identity, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def started(cfg: DictConfig, sweep: str | None) -> dict:
    """What a run's record says of how it was started."""
    return {"identity": identity(cfg), "config": resolved(cfg), "command": ["python", *COMMAND], "sweep": sweep}


def perform(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """Do what the settings ask for, in this process; returns the result.

    Raises:
        ConfigError: a setting that only the loaded model or data show to be wrong.
    """
    limit = experiment.skip_if_over_gib
    if experiment.task is Task.predict or limit is not None:
        from tuneoff.predict import predict
        start = {**start, "method": experiment.method, "seed": experiment.seed}
        foreseen = predict(experiment, method)
        if experiment.task is Task.predict:
            return write_prediction(folder, start, foreseen)
        start["prediction"] = {key: foreseen[key] for key in ("needed_gib", "peak_gib", "breakdown_gib")}
        if limit is not None and foreseen["needed_gib"] > limit:
            why = f"needs {foreseen['needed_gib']:.2f} GiB, and skip_if_over_gib={limit:g}"
            error = {"type": "PredictedOutOfMemory", "message": why, "traceback": ""}
            if this_rank():
                return {"status": "predicted_out_of_memory", "error": error}
            return conclude(folder, start, "predicted_out_of_memory", error, 0.0)
    from tuneoff.loop import train
    # A method's package may collect garbage as it trains: it need not look through all that was imported.
    gc.freeze()
    return train(experiment, method, folder, start)


class Refusal(Callback):
    """Hydra calls this before it makes a folder: there a config, or a point of a grid, is still refused in time.

    Hydra turns what a callback raises into a warning, and `one_line` that warning into an error again.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse settings that cannot be used, and a folder whose record this run would overwrite."""
        task = checked(config)
        if this_rank():
            return
        if task.tuned is not None:
            raise ConfigError("tuned", task.tuned, "is for sweeps, with -m")
        folder = Path(config.hydra.run.dir)
        if (folder / RUN).exists() and task.resume == "never" and not task.rerun:
            raise ConfigError("hydra.run.dir", folder, "holds a run already, and rerun=true would replace it")
        if (folder / RUN).exists() and task.resume != "never":
            refuse_another_run(task, folder)
        self.there = existing(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what the sweeper could not do. (Our own sweeper checks each of its points before the first job.)"""
        self.there, self.began = existing(Path(config.hydra.sweep.dir)), time.time()
        if config.get("tuned") is not None and not config.hydra.sweeper._target_.endswith(".GridSweeper"):
            raise ConfigError("tuned", config.tuned, "needs hydra/sweeper=grids, which puts the values in")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say at its end what came of a sweep, and fail with its jobs, for sweepers that do not."""
        if not config.hydra.sweeper._target_.endswith(".GridSweeper"):
            from tuneoff.sweeps.table import recorded, table, unfinished
            rows = recorded(Path(config.hydra.sweep.dir), self.began)
            print(table(rows))
            if failed := unfinished(rows):
                raise RunFailed(failed)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See whether the folder holds an earlier run."""
        self.earlier = (Path(config.hydra.runtime.output_dir) / RUN).exists()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Leave nothing of a run that only the loaded model or data showed to be wrong, but an earlier one."""
        if isinstance(job_return._return_value, ConfigError) and this_rank() == 0 and not self.earlier:
            forget(Path(config.hydra.runtime.output_dir), self.there)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Raise a single run's error here, where Hydra does not yet print a line of its own."""
        if kwargs["job_return"].status is JobStatus.FAILED:
            raise kwargs["job_return"]._return_value


def existing(folder: Path) -> Path:
    """The deepest folder on the way to `folder` that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def forget(folder: Path, there: Path) -> None:
    """Remove a refused run's files and the empty folders around them, up to one that was `there` before."""
    made_by_hydra = ("run.log", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
    for name in (RUN, METRICS, RESULT, LOCK, *made_by_hydra):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / ".hydra", folder, *folder.parents):
        if path == there or not path.is_dir() or any(path.iterdir()):
            break
        path.rmdir()


def one_line(main: Callable[[], None]) -> int:
    """Run `main`; turn what it raises into one line on stderr. Returns the exit code: 2 refused, 1 failed."""
    for passed_over in (f"Callback {Refusal.__name__}", "provider=.* is not available"):  # Hydra only warns of these
        warnings.filterwarnings("error", message=passed_over)
    written = sys.argv[1:]
    try:
        check_flags()
        sys.argv[1:] = swept(written)
        main()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as caught:
        raised = caught.__context__ if isinstance(caught, UserWarning) and caught.__context__ else caught
    failed = isinstance(raised, RunFailed)
    line = str(raised) if failed else explain(raised, written)
    if line is None and isinstance(raised, OSError):  # a full disk, a folder that cannot be written
        failed, line = True, f"{raised.filename or 'output folder'}: {raised.strerror or raised}"
    if line is None:
        raise raised
    if this_rank() == 0:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 2


def check_flags() -> None:
    """Refuse unknown flags in one line, where argparse would print its usage too."""
    def refuse(message: str) -> NoReturn:
        raise ConfigError("command line", ABSENT, f"{message}; see --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args()


def swept(arguments: list[str]) -> list[str]:
    """The command line of a sweep, with our sweeper and with `galore_rank=choice(128)` for `galore_rank=128`.

    Hydra composes once without the swept values, and so with a method that may not have that option; a choice reaches
    the sweeper alone. Only options that not every method has are written so.
    """
    flags = get_args_parser().parse_args(arguments)
    chosen = chosen_config(flags)
    by_itself = "hydra.mode=MULTIRUN" in arguments or OmegaConf.select(chosen, "hydra.mode") == "MULTIRUN"
    multirun = flags.multirun or by_itself
    if multirun and launched() > 1:
        raise ConfigError("WORLD_SIZE", launched(), "a sweep needs no launcher: leave it out, and write num_processes="
                          f"{launched()}")
    if not multirun:
        return [*arguments, *SILENT] if this_rank() else arguments
    plain = re.compile(rf"({'|'.join(own_options())})=([\w.+/-]+|\[[^\[\]()]*\])")
    arguments = [plain.sub(r"\1=choice(\2)", word) if plain.fullmatch(word) else word for word in arguments]
    named = [word for word in arguments if word.startswith("hydra/sweeper=")]
    named += [item for item in chosen.get("defaults") or [] if "override hydra/sweeper" in item]
    # Hydra takes such a choice from a primary config alone, and config.yaml is the base of every sweep's.
    return arguments if named else [*arguments, "hydra/sweeper=grids"]


def own_options() -> set[str]:
    """The options that not every method has."""
    shared = {item.name for item in fields(Experiment)}
    return {item.name for schema in schemas().values() for item in fields(schema)} - shared


def chosen_config(flags: Namespace) -> DictConfig:
    """The file of --config-name; empty where there is none that can be read (Hydra will say so)."""
    folders = [Path(flags.config_dir or flags.config_path or "."), Path(sys.argv[0]).parent / "conf"]
    paths = [folder / f"{(flags.config_name or 'config').removesuffix('.yaml')}.yaml" for folder in folders]
    try:
        found: Any = OmegaConf.load(next(path for path in paths if path.is_file()))
    except (StopIteration, OSError, MarkedYAMLError):
        found = None
    return found if OmegaConf.is_dict(found) else OmegaConf.create()
