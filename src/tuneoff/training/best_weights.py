"""The weights of the best step: beside the checkpoints, whole or not there, and put into the model in the end."""

import logging
import shutil
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file

from tuneoff.record import LOOP, find_checkpoints, read_json
from tuneoff.training.checkpoint import TENSORS
from tuneoff.training.setup import Parts

log = logging.getLogger(__name__)

FOLDER = "best"  # among the checkpoints: a folder for each step that is the best, or was when a checkpoint was written


def save_best_weights(parts: Parts, step: int) -> None:
    """Write what the run may change of the model, as it is after `step`, in place of an earlier best step's.

    Raises:
        OSError: the disk is full or not writable; the earlier one is untouched.
    """
    if not parts.ranks.first:
        return
    folder = parts.checkpoint_folder / FOLDER
    unfinished = folder / f".{step}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file(collect_trained(parts), unfinished / TENSORS)
    whole = folder / str(step)
    shutil.rmtree(whole, ignore_errors=True)
    unfinished.rename(whole)
    needed = {str(step), *_list_steps_of_checkpoints(parts)}
    for path in folder.iterdir():
        if path.name not in needed:
            shutil.rmtree(path, ignore_errors=True)


def _list_steps_of_checkpoints(parts: Parts) -> Iterator[str]:
    """The steps that were the best where the run may go on from."""
    for checkpoint in find_checkpoints(parts.checkpoint_folder):
        loop = read_json(checkpoint / LOOP) or {}
        evaluation = loop.get("parts", {}).get("evaluation", {})
        yield str(evaluation.get("best_step", {}).get("step"))


def collect_trained(parts: Parts) -> dict[str, torch.Tensor]:
    """Return what the run may change of the model, by parameter name."""
    names = parts.method.ever_trained(parts.model, parts.optimizer)
    tensors = {}
    for name, parameter in parts.model.named_parameters():
        if name in names:
            tensors[name] = parameter.detach().contiguous()
    return tensors


def use_best_weights(parts: Parts) -> None:
    """Put the best step's weights into the model, where the run is judged by them; each rank reads them itself.

    Raises:
        OSError: they are not there.
    """
    best = parts.evaluation.best_step
    if not best.used:
        return
    path = parts.checkpoint_folder / FOLDER / str(best.step) / TENSORS
    if not path.is_file():
        raise OSError(f"{path}: the weights of the best step are not there")
    parameters = dict(parts.model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(path).items():
            parameters[name].copy_(tensor)
    log.info(
        "the weights of step %s are used, the best by %s", best.step, parts.experiment.save_best
    )
