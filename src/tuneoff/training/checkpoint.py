"""Checkpoints: whole or not there, safe to load, and no larger than what the run may change.

Files of our own rather than accelerate's `save_state`, which writes a frozen base too, pickles generator states, and
deletes the old checkpoint before the new one is whole.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.serialization import default_restore_location

from tuneoff.record import LOOP, ResumePoint, find_checkpoints, set_aside, write_json
from tuneoff.training.failures import is_out_of_memory

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
TENSORS = "model.safetensors"
STATE = "state.pt"
RANK_STATES = "ranks"  # a folder in a checkpoint: what each rank alone has of the optimizer's state
UNFINISHED_RANK_STATES = (
    ".ranks"  # the same beside the checkpoints, until the first rank writes the rest
)
# Of loop.json. 2: the state of each part of a run under its name. One of 1, which had loose values, cannot be gone on
# from: its run starts again.
SCHEMA_VERSION = 2


class Checkpoint(NamedTuple):
    """What a run was after a step."""

    step: int  # optimizer steps taken
    tensors: dict[str, torch.Tensor]  # what the run may change of the model, by parameter name
    state: dict  # tensors and plain values: optimizer, generators, loss scale
    loop: dict[str, Any]  # plain JSON values: each stateful part's state, by its name
    sharding: str = "none"  # what splits the model over the ranks
    unreadable: tuple[tuple[Path, str], ...] = ()  # later ones that were passed over, and why


def name_checkpoint(step: int) -> str:
    """The name of the folder of a checkpoint after so many steps."""
    return f"step_{step:08d}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write `folder/step_N` under another name, rename it when it is whole, then delete all but the newest `keep`.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    name = name_checkpoint(checkpoint.step)
    folder.mkdir(exist_ok=True)
    unfinished = folder / f".{name}"
    for leftover in (unfinished, folder / f".{name}.replaced"):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir()
    try:
        _write(unfinished, checkpoint)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if _is_write_error(error):
            raise OSError(
                f"checkpoint of step {checkpoint.step} could not be written: {error}"
            ) from error
        raise
    whole = folder / name
    if whole.exists():
        # Of the same step, as where a run is stopped right behind a save: removing it takes time, and a kill may come.
        whole.rename(folder / f".{name}.replaced")
    unfinished.rename(whole)
    _delete_all_but(folder, whole, keep)


def remove_rank_states(folder: Path) -> None:
    """Remove what ranks have written of a checkpoint that never became whole."""
    shutil.rmtree(folder / UNFINISHED_RANK_STATES, ignore_errors=True)


def save_rank_state(folder: Path, rank: int, optimizer_state: dict) -> None:
    """Write a rank's own part of the next checkpoint in `folder`.

    Raises:
        OSError: the disk is full or not writable.
    """
    unfinished = folder / UNFINISHED_RANK_STATES
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        torch.save(optimizer_state, _rank_file(unfinished, rank))
        _flush(_rank_file(unfinished, rank))
    except Exception as error:
        if _is_write_error(error):
            raise OSError(f"checkpoint of rank {rank} could not be written: {error}") from error
        raise


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.pt"


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        tensors[name] = tensor.detach().contiguous()
    save_file(tensors, folder / TENSORS)
    torch.save(checkpoint.state, folder / STATE)
    sizes = {}
    for name in (TENSORS, STATE):
        sizes[name] = (folder / name).stat().st_size
        _flush(folder / name)
    rank_states = folder.parent / UNFINISHED_RANK_STATES
    if rank_states.exists():
        rank_states.rename(folder / RANK_STATES)
        for file in (folder / RANK_STATES).iterdir():
            sizes[f"{RANK_STATES}/{file.name}"] = file.stat().st_size
    content = {
        "schema_version": SCHEMA_VERSION,
        "step": checkpoint.step,
        "sharding": checkpoint.sharding,
        "sizes": sizes,
        "parts": checkpoint.loop,
    }
    write_json(folder / LOOP, content)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_write_error(error: BaseException) -> bool:
    """Whether a file could not be written; torch's writer has no error type of its own."""
    return isinstance(error, OSError | SafetensorError) or "PytorchStreamWriter" in str(error)


def _delete_all_but(folder: Path, newest: Path, keep: int) -> None:
    """Delete all checkpoints but the `keep` newest up to `newest`, and what killed processes have left of others."""
    for leftover in folder.glob(".step_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    checkpoints = find_checkpoints(folder)
    # One of a later step was passed over as damaged when this run went on from an earlier one.
    earlier = [path for path in checkpoints if path <= newest]
    kept = earlier[-keep:]
    for path in checkpoints:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def load_newest(
    folder: Path, device: torch.device = CPU, rank: int = 0, sharding: str = "none"
) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a warning.

    Args:
        device: where tensors go that were on an accelerator; those that were in the host's memory stay there.
        rank: whose part to read where each rank has one.
        sharding: what splits the model now.

    Raises:
        OSError: there are checkpoints, but none can be read.
    """
    unreadable: list[tuple[Path, str]] = []
    for path in reversed(find_checkpoints(folder)):
        try:
            checkpoint = _read(path, device, rank, sharding)
            return checkpoint._replace(unreadable=tuple(unreadable))
        except Exception as error:  # a damaged file raises whatever its format's reader likes
            if is_out_of_memory(error):
                raise
            reason = str(error).split("\n")[0]
            log.warning("%s cannot be read (%s); trying the one before", path, reason)
            unreadable.append((path, reason))
    if unreadable:
        path, reason = unreadable[0]
        raise OSError(
            f"none of the {len(unreadable)} checkpoints can be read ({path.name}: {reason}); without the folder "
            f"{folder} this run alone starts again"
        )
    return None


def _read(folder: Path, device: torch.device, rank: int, sharding: str) -> Checkpoint:
    def to_this_rank(storage: Any, location: str) -> Any:
        # Without this a state goes to the device that wrote it: of all ranks to the first one's, or to none.
        if location == "cpu":
            return storage
        return default_restore_location(storage, str(device))

    content: dict[str, Any] = json.loads((folder / LOOP).read_text())
    version = content.get("schema_version", 1)
    if version != SCHEMA_VERSION:
        raise OSError(f"{LOOP} has schema {version}, and this version reads {SCHEMA_VERSION}")
    for name, size in content["sizes"].items():
        found = (folder / name).stat().st_size
        if found != size:
            raise OSError(f"{name} has {found} bytes of {size}")
    # One of an earlier version does not say.
    written_under = content.get("sharding", sharding)
    if written_under != sharding:
        raise OSError(f"it was written under {written_under}, and this run is {sharding}")

    def load(file: Path) -> Any:
        # A rank that is sent its part maps the first one's file, and reads next to nothing of it.
        mapped = sharding == "fsdp2" and rank > 0
        return torch.load(file, map_location=to_this_rank, weights_only=True, mmap=mapped)

    state = load(folder / STATE)
    own_file = _rank_file(folder / RANK_STATES, rank)
    if own_file.exists():
        state["optimizer"] = load(own_file)
    return Checkpoint(
        step=content["step"],
        tensors=load_file(folder / TENSORS),
        state=state,
        loop=content["parts"],
        sharding=sharding,
    )


def find_resume_point(checkpoint: Checkpoint) -> ResumePoint:
    """What the recorder must know of a checkpoint."""
    return ResumePoint(
        step=checkpoint.step,
        evaluated_at=checkpoint.loop["evaluation"]["evaluated_at"],
        recorder=checkpoint.loop["recorder"],
    )


def clear_checkpoints(folder: Path, checkpoint: Checkpoint | None) -> None:
    """Set aside the checkpoints that could not be read, and remove those of a run that is begun anew.

    Args:
        checkpoint: what the run goes on from; None for one that begins anew.
    """
    if checkpoint is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path, reason in checkpoint.unreadable:
        set_aside(path, reason)
