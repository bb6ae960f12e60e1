"""A run's folder: its name, the one that a resume goes on in, and nothing left of a refused run."""

import os
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, Task, check_config, identify_run
from tuneoff.config.paths import expand_user
from tuneoff.record import (
    CHECKPOINTS,
    LOCK,
    METRICS,
    RESULT,
    RESULTS,
    RETRIED,
    RUN,
    describe_unusable,
    find_checkpoints,
    holds_run,
    is_locked,
    read_identity,
    read_status,
)

WRITTEN_BY_HYDRA = (
    "run.log",
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
)


class RunEnded(Exception):
    """The run that a resume would go on with has its result already, so that there is nothing left to do."""

    def __init__(self, resume: str, folder: Path):
        super().__init__(describe_resume(resume, folder))
        self.folder = folder


def check_and_identify(*, _root_: DictConfig) -> str:
    """`${identity:}`: names a run's folder, so a config is refused before any folder is made."""
    return identify_run(check_config(_root_))


def choose_run_folder(parent: str, time: str, *, _root_: DictConfig) -> str:
    """`${run_folder:PARENT,TIME}`: a single run's new folder, or with `resume` the one to go on in."""
    task = check_config(_root_)
    identity = identify_run(task)
    new_folder = f"{parent}/{time}_{identity}"
    if task.resume == "never":
        return new_folder
    if task.resume != "auto":
        return str(expand_user(task.resume))
    stopped = []
    for folder in sorted(Path(parent).glob(f"*_{identity}")):
        if read_status(folder) in RETRIED:
            stopped.append(folder)
    # Of those that got equally far the newest.
    farthest = max(reversed(stopped), key=find_last_step, default=None)
    return new_folder if farthest is None else str(farthest)


def find_last_step(folder: Path) -> int:
    """The step of the newest checkpoint in a run's folder; 0 where there is none."""
    checkpoints = find_checkpoints(folder / CHECKPOINTS)
    if not checkpoints:
        return 0
    return int(checkpoints[-1].name.removeprefix("step_"))


def describe_resume(resume: str, folder: Path) -> str:
    """Where a run goes on, and from which step."""
    step = find_last_step(folder)
    status = read_status(folder)
    if status == "finished":
        return f"resume={resume}: the run in {folder} has finished"
    if status in RESULTS:
        return f"resume={resume}: the run in {folder} has ended, {status}"
    if step:
        return f"resume={resume}: goes on in {folder} after step {step}"
    if holds_run(folder):
        return f"resume={resume}: starts again in {folder}, which holds no checkpoint"
    return f"resume={resume}: no run of these settings was stopped; a new one begins in {folder}"


def check_same_run(task: DictConfig, folder: Path) -> None:
    """Let no run go on in the `folder` of one with other settings.

    Raises:
        ConfigError: what is there has another identity.
    """
    earlier = read_identity(folder)
    identity = identify_run(task)
    if earlier is None:
        allowed = f"{folder} holds a run, and none of its files can be read that says which"
        raise ConfigError("resume", task.resume, allowed)
    if earlier != identity:
        allowed = f"{folder} holds run {earlier}, and these settings make {identity}"
        raise ConfigError("resume", task.resume, allowed)


def check_resumed_run(task: DictConfig, folder: Path) -> None:
    """Refuse to go on in `folder` with what is no run of these settings, or has its result.

    Raises:
        ConfigError: `resume` names another folder, or what is there has another identity.
        RunEnded: there is nothing left to do.
    """
    if task.resume != "auto" and expand_user(task.resume).resolve() != folder.resolve():
        allowed = f"must be left out, since resume={task.resume} says where the run is"
        raise ConfigError("hydra.run.dir", folder, allowed)
    if not holds_run(folder):
        return
    if task.task is not Task.train:
        allowed = f"is for task=train, and {folder} holds a run, beside which nothing is written"
        raise ConfigError("resume", task.resume, allowed)
    check_same_run(task, folder)
    if read_status(folder) in RESULTS:
        raise RunEnded(task.resume, folder)


def refuse_folder_in_use(task: DictConfig, folder: Path) -> None:
    """Refuse a folder in which a living run trains, before Hydra writes this command's settings over that one's.

    Raises:
        ConfigError: naming the setting that has led there.
    """
    if not is_locked(folder):
        return
    if task.resume == "never":
        raise ConfigError("hydra.run.dir", folder, "another process is training there")
    allowed = f"another process is training in {folder}"
    raise ConfigError("resume", task.resume, allowed)


def check_in_other_ranks(task: DictConfig, folder: Path) -> None:
    """End a rank that a launcher has started beside the first one, where that one ends at once: it would wait for it.

    Args:
        folder: as `hydra.run.dir` says here. Where its name has the time, the first rank's may be another.

    Raises:
        ConfigError, RunEnded: as `check_resumed_run`.
    """
    if task.resume not in ("never", "auto"):
        check_resumed_run(task, expand_user(task.resume))
    elif task.resume == "auto" and read_status(folder) in RESULTS:
        check_resumed_run(task, folder)


def find_output_folder(config: DictConfig, key: str) -> Path:
    """The folder that `hydra.run.dir` or `hydra.sweep.dir` names, there or not.

    Raises:
        ConfigError: it cannot be made, or nothing can be written in it.
    """
    written = OmegaConf.select(config, key)
    if not written:
        raise ConfigError(key, written, "must name a folder; . is the one that you are in")
    folder = Path(str(written))
    reason = describe_unusable(folder)
    if reason is not None:
        raise ConfigError(key, folder, f"must be a folder that can be made and written: {reason}")
    return folder


def list_written_files(folder: Path) -> set[str]:
    """The names that a run gives its first files, of those that a folder holds: a prediction's, or the user's own."""
    names = (RUN, METRICS, RESULT, LOCK, *WRITTEN_BY_HYDRA)
    return {name for name in names if os.path.lexists(folder / name)}


def remove_refused_run(
    folder: Path,
    existing_folder: Path,
    earlier_files: Collection[str],
) -> None:
    """Remove a refused run's files and the empty folders around them, up to one that existed before.

    Args:
        folder: the run's.
        existing_folder: the deepest one on the way to it that existed before.
        earlier_files: what it held before, as `list_written_files` gives it.
    """
    for name in list_written_files(folder).difference(earlier_files):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / ".hydra", folder, *folder.parents):
        if path == existing_folder or not path.is_dir() or any(path.iterdir()):
            break
        path.rmdir()


OmegaConf.register_new_resolver("identity", check_and_identify, replace=True)
OmegaConf.register_new_resolver("run_folder", choose_run_folder, replace=True)
