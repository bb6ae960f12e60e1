"""Run state: what a run has that a checkpoint keeps, taken and put back."""

import logging
import shlex

import torch

from tuneoff.training.checkpoint import (
    Checkpoint,
    name_checkpoint,
    remove_rank_states,
    save_checkpoint,
    save_rank_state,
)
from tuneoff.training.setup import Parts

log = logging.getLogger(__name__)


def save_run_state(parts: Parts, step: int) -> None:
    """Write a checkpoint after `step` steps; all ranks must call.

    Raises:
        OSError: on every rank, where one of them could not write its part.
    """
    tensors, state = collect_state(parts)
    _save_rank_states(parts)
    if not parts.ranks.first:
        return
    loop = {}
    for name, part in parts.stateful().items():
        loop[name] = part.state()
    checkpoint = Checkpoint(step, tensors, state, loop, parts.experiment.sharding)
    save_checkpoint(parts.checkpoint_folder, checkpoint, parts.experiment.keep_checkpoints)


def _save_rank_states(parts: Parts) -> None:
    """Let each rank write what it alone has, where there is such a thing, before the first one writes the rest."""
    own_state = parts.sharding.rank_state(parts.optimizer)
    if own_state is None:
        return
    folder = parts.checkpoint_folder
    if parts.ranks.first:
        remove_rank_states(folder)
    parts.ranks.gather(None)  # the others wait until it is removed
    failure = None
    try:
        save_rank_state(folder, parts.ranks.index, own_state)
    except OSError as error:
        failure = str(error)
    failures = [text for text in parts.ranks.gather(failure) if text is not None]
    if failures:
        raise OSError(failures[0])


def explain_resume(parts: Parts, step: int, paused: bool = False) -> str:
    """Say where the checkpoint of a stopped run is, and what goes on from it.

    Args:
        paused: whether `stop_after` stopped the run, which would stop it there again.
    """
    path = parts.checkpoint_folder / name_checkpoint(step)
    run = parts.recorder.run
    command = list(run.get("command", []))
    if run.get("sweep"):
        advice = "the sweep's command goes on from there"
    elif parts.ranks.count > 1 or not command:
        change = "without stop_after and with resume=auto" if paused else "with resume=auto"
        advice = f"the same command {change} goes on from there"
    else:
        advice = f"go on with: {shlex.join(make_resuming(command, paused))}"
    return f"saved in {path}; {advice}"


def make_resuming(command: list[str], paused: bool) -> list[str]:
    """The command that goes on with the run which `command` began."""
    left_out = ["rerun"]
    if paused:
        left_out.append("stop_after")
    words = []
    for word in command:
        key = word.partition("=")[0]
        if key not in left_out and word != "resume=never":
            words.append(word)
    if paused and not any(word.startswith("stop_after=") for word in command):
        words.append("stop_after=null")  # a file of settings has it
    if not any(word.startswith("resume=") for word in words):
        words.append("resume=auto")
    return words


def collect_state(parts: Parts) -> tuple[dict[str, torch.Tensor], dict]:
    """Return `tensors` and `state` of a checkpoint, put together where they are split; all ranks must call."""
    sharding = parts.sharding
    ever_trained = parts.method.ever_trained(parts.model, parts.optimizer)
    tensors = {}
    for name, parameter in parts.model.named_parameters():
        if name in ever_trained:
            tensors[name] = sharding.gather_parameter(parameter)
    state = {
        "optimizer": sharding.gather_optimizer_state(parts.optimizer),
        "generators": parts.ranks.gather_generator_states(),
        "method": parts.method.state(),
    }
    scaler = parts.ranks.accelerator.scaler
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    return tensors, state


def restore_run_state(parts: Parts, checkpoint: Checkpoint) -> None:
    """Set model, optimizer, generators, loss scale and every stateful part to what the checkpoint holds."""
    sharding = parts.sharding
    if not sharding.splits:
        parts.method.restore(parts.model, checkpoint.state.get("method", {}))
    parameters = dict(parts.model.named_parameters())
    with torch.no_grad():
        for name, tensor in checkpoint.tensors.items():
            sharding.restore_parameter(parameters[name], tensor)
    sharding.restore_optimizer(parts.optimizer, checkpoint.state["optimizer"])
    parts.ranks.set_generator_states(checkpoint.state["generators"])
    scaler = parts.ranks.accelerator.scaler
    if scaler is not None:
        scaler.load_state_dict(checkpoint.state["scaler"])
    for name, part in parts.stateful().items():
        # A checkpoint may be older than a measurement.
        if name in checkpoint.loop:
            part.restore(checkpoint.loop[name])
    parts.lr_scheduler.last_epoch = checkpoint.step
    log.info("resumed after step %d", checkpoint.step)
