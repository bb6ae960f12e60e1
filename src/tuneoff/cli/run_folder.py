"""A run's folder: its name, the one that a resume goes on in, and nothing left of a refused run."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, check_config, identify_run
from tuneoff.record import LOCK, METRICS, RESULT, RETRIED, RUN, read_json, read_status


def check_and_identify(*, _root_: DictConfig) -> str:
    """`${identity:}`: names a run's folder, so a config is refused before any folder is made."""
    return identify_run(check_config(_root_))


def choose_run_folder(parent: str, time: str, *, _root_: DictConfig) -> str:
    """`${run_folder:PARENT,TIME}`: a single run's new folder, or with `resume` the one to go on in."""
    task = check_config(_root_)
    name, resume = identify_run(task), task.resume
    if resume == "auto":
        earlier = sorted(Path(parent).glob(f"*_{name}"), reverse=True)
        return str(
            next(
                (folder for folder in earlier if read_status(folder) in RETRIED),
                f"{parent}/{time}_{name}",
            )
        )
    return f"{parent}/{time}_{name}" if resume == "never" else resume


def check_same_run(task: DictConfig, folder: Path) -> None:
    """Let no run go on in the `folder` of one with other settings.

    Raises:
        ConfigError: what is there has another identity.
    """
    found, name = (read_json(folder / RUN) or {}).get("identity"), identify_run(task)
    if found != name:
        raise ConfigError(
            "resume", task.resume, f"{folder} holds run {found}, and these settings make {name}"
        )


def deepest_existing_folder(folder: Path) -> Path:
    """The deepest folder on the way to `folder` that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def remove_refused_run(folder: Path, there: Path) -> None:
    """Remove a refused run's files and the empty folders around them, up to one that was `there` before."""
    made_by_hydra = ("run.log", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
    for name in (RUN, METRICS, RESULT, LOCK, *made_by_hydra):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / ".hydra", folder, *folder.parents):
        if path == there or not path.is_dir() or any(path.iterdir()):
            break
        path.rmdir()


OmegaConf.register_new_resolver("identity", check_and_identify, replace=True)
OmegaConf.register_new_resolver("run_folder", choose_run_folder, replace=True)
