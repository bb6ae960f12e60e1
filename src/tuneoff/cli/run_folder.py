"""A run's folder: its name, the one that a resume goes on in, and nothing left of a refused run."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, checked, identity
from tuneoff.record import LOCK, METRICS, RESULT, RETRIED, RUN, read_json, status


def checked_identity(*, _root_: DictConfig) -> str:
    """`${identity:}`: names a run's folder, so a config is refused before any folder is made."""
    return identity(checked(_root_))


def run_folder(parent: str, time: str, *, _root_: DictConfig) -> str:
    """`${run_folder:PARENT,TIME}`: a single run's new folder, or with `resume` the one to go on in."""
    task = checked(_root_)
    name, resume = identity(task), task.resume
    if resume == "auto":
        earlier = sorted(Path(parent).glob(f"*_{name}"), reverse=True)
        return str(
            next(
                (folder for folder in earlier if status(folder) in RETRIED),
                f"{parent}/{time}_{name}",
            )
        )
    return f"{parent}/{time}_{name}" if resume == "never" else resume


def refuse_another_run(task: DictConfig, folder: Path) -> None:
    """Let no run go on in the `folder` of one with other settings.

    Raises:
        ConfigError: what is there has another identity.
    """
    found, name = (read_json(folder / RUN) or {}).get("identity"), identity(task)
    if found != name:
        raise ConfigError(
            "resume", task.resume, f"{folder} holds run {found}, and these settings make {name}"
        )


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


OmegaConf.register_new_resolver("identity", checked_identity, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
