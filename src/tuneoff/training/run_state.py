"""Run state: what a run has that a checkpoint keeps, taken and put back."""

import logging
import shlex

import torch

from tuneoff.training.checkpoint import Checkpoint, name_checkpoint, save_checkpoint
from tuneoff.training.setup import Parts

log = logging.getLogger(__name__)


def save_run_state(parts: Parts, step: int) -> None:
    """Write a checkpoint after `step` steps; all ranks must call."""
    if parts.sharding.deepspeed:
        return  # SIGTERM stops it all the same; `save_every` is refused
    tensors, state = collect_state(parts)
    if not parts.ranks.first:
        return
    loop = {}
    for name, part in parts.stateful().items():
        loop[name] = part.state()
    checkpoint = Checkpoint(step, tensors, state, loop)
    save_checkpoint(parts.checkpoint_folder, checkpoint, parts.experiment.keep_checkpoints)


def explain_resume(parts: Parts, step: int) -> str:
    """Say where the checkpoint of a stopped run is, and what goes on from it."""
    if parts.sharding.deepspeed:
        return "DeepSpeed saves no checkpoint"
    path = parts.checkpoint_folder / name_checkpoint(step)
    run = parts.recorder.run
    command = list(run.get("command", []))
    if run.get("sweep"):
        advice = "the sweep's command goes on from there"
    elif parts.ranks.count > 1 or not command:
        advice = "the same command with resume=auto goes on from there"
    else:
        if not any(word.startswith("resume=") for word in command):
            command.append("resume=auto")
        advice = f"go on with: {shlex.join(command)}"
    return f"saved in {path}; {advice}"


def collect_state(parts: Parts) -> tuple[dict[str, torch.Tensor], dict]:
    """Return `tensors` and `state` of a checkpoint, put together where they are split; all ranks must call."""
    sharding = parts.sharding
    ever_trained = parts.method.ever_trained(parts.model, parts.optimizer)
    tensors = {}
    for name, parameter in parts.model.named_parameters():
        if name in ever_trained:
            tensors[name] = sharding.gather_tensors(parameter)
    state = {
        "optimizer": sharding.gather_tensors(parts.optimizer.state_dict()),
        "generators": parts.ranks.gather_generator_states(),
    }
    scaler = parts.ranks.accelerator.scaler
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    return tensors, state


def restore_run_state(parts: Parts, checkpoint: Checkpoint) -> None:
    """Set model, optimizer, generators, loss scale and every stateful part to what the checkpoint holds."""
    sharding = parts.sharding
    parameters = dict(parts.model.named_parameters())
    with torch.no_grad():
        for name, tensor in checkpoint.tensors.items():
            parameters[name].copy_(sharding.split_tensor(tensor, parameters[name]))
    optimizer_state = checkpoint.state["optimizer"]
    parts.optimizer.load_state_dict(
        sharding.split_optimizer_state(optimizer_state, parts.optimizer)
    )
    parts.ranks.set_generator_states(checkpoint.state["generators"])
    scaler = parts.ranks.accelerator.scaler
    if scaler is not None:
        scaler.load_state_dict(checkpoint.state["scaler"])
    for name, part in parts.stateful().items():
        part.restore(checkpoint.loop[name])
    parts.lr_scheduler.last_epoch = checkpoint.step
    log.info("resumed after step %d", checkpoint.step)
