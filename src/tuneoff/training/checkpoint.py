"""Checkpoints that survive anything: whole or not there, safe to load, and no larger than what the run may change.

Files of our own rather than accelerate's `save_state`, which writes a frozen base too, pickles generator states, and
deletes the old checkpoint before the new one is whole.
"""

import json
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tuneoff.distributed.ranks import Ranks
from tuneoff.record import write_json

log = logging.getLogger(__name__)
TENSORS, STATE, LOOP = "model.safetensors", "state.pt", "loop.json"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict, loop: dict, keep: int
) -> None:
    """Write `folder/step_N` under another name, rename it when it is whole, then delete all but the newest `keep`.

    Args:
        tensors: what the run may change of the model, by parameter name.
        state: tensors and plain values (optimizer, generators), loaded again with `weights_only=True`.
        loop: plain JSON values.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    folder.mkdir(exist_ok=True)
    unfinished = folder / f".step_{step:08d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            unfinished / TENSORS,
        )
        torch.save(state, unfinished / STATE)
        sizes = {name: (unfinished / name).stat().st_size for name in (TENSORS, STATE)}
        for name in sizes:
            _flush(unfinished / name)
        write_json(unfinished / LOOP, {**loop, "step": step, "sizes": sizes})
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if (
            isinstance(error, OSError)
            or "PytorchStreamWriter" in str(error)
            or "SafetensorError" in repr(type(error))
        ):
            raise OSError(f"checkpoint of step {step} could not be written: {error}") from error
        raise
    whole = folder / f"step_{step:08d}"
    shutil.rmtree(whole, ignore_errors=True)
    unfinished.rename(whole)
    # One of a later step was passed over as damaged when this run went on from an earlier one.
    kept = [path for path in find_checkpoints(folder) if path <= whole][-keep:]
    for path in set(find_checkpoints(folder)) - set(kept):
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step_*"))


class Checkpoint(NamedTuple):
    """What was saved: tensors of the model by name, optimizer and generators, and plain values of the loop."""

    tensors: dict[str, torch.Tensor]
    state: dict
    loop: dict


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a warning.

    Raises:
        OSError: there are checkpoints, but none can be read.
    """
    paths = find_checkpoints(folder)
    for path in reversed(paths):
        try:
            return _read(path)
        except Exception as error:  # a damaged file raises whatever its format's reader likes
            log.warning(
                "%s cannot be read (%s); trying the one before", path, str(error).split("\n")[0]
            )
    if paths:
        raise OSError(
            f"{folder}: none of the {len(paths)} checkpoints can be read; rerun=true starts again"
        )
    return None


def _read(path: Path) -> Checkpoint:
    loop: dict[str, Any] = json.loads((path / LOOP).read_text())
    for name, size in loop["sizes"].items():
        if (path / name).stat().st_size != size:
            raise OSError(f"{name} has {(path / name).stat().st_size} bytes of {size}")
    return Checkpoint(load_file(path / TENSORS), torch.load(path / STATE, weights_only=True), loop)


# ---------------------------------------------------------------- what a run has of it
def collect_state(
    model: nn.Module, ever_trained: Collection[str], optimizer: torch.optim.Optimizer, ranks: Ranks
) -> tuple[dict[str, torch.Tensor], dict]:
    """Return `tensors` and `state` for `save_checkpoint`, put together where they are split; all ranks must call."""
    tensors = {
        name: ranks.whole(item) for name, item in model.named_parameters() if name in ever_trained
    }
    state = {"optimizer": ranks.whole(optimizer.state_dict()), "generators": ranks.generators()}
    if ranks.accelerator.scaler is not None:
        state["scaler"] = ranks.accelerator.scaler.state_dict()
    return tensors, state


def restore_state(
    saved: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Set model, optimizer, generators and loss scale to what `collect_state` gave."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in saved.tensors.items():
            parameters[name].copy_(ranks.split(tensor, parameters[name]))
    optimizer.load_state_dict(ranks.split_state(saved.state["optimizer"], optimizer))
    ranks.set_generators(saved.state["generators"])
    if ranks.accelerator.scaler is not None:
        ranks.accelerator.scaler.load_state_dict(saved.state["scaler"])
