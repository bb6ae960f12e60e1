"""Optimizers of the LoRA family: rates of their own for B (LoRA+), and gradients of B that make up for a frozen A."""

from typing import Any

import torch

from tuneoff.config import ConfigError, Experiment
from tuneoff.methods._lora_refusals import DEFAULT_EMBEDDING_RATE
from tuneoff.models.optimizers import BETAS, EPS, build_optimizer, parameter_groups


def make_loraplus(model: Any, experiment: Experiment, ratio: float, embedding_rate: float) -> Any:
    """Return the shared optimizer, in which B matrices get `lr · ratio`, and those of embeddings `embedding_rate`.

    Raises:
        ConfigError: a rate of one's own for embeddings, of which none has an adapter.
    """
    # By name: PEFT's own helper gives every 1-D parameter, DoRA's magnitudes too, the rate of B.
    rates = {
        "lora_embedding_B": embedding_rate,
        "lora_B": experiment.lr * ratio,
        "": experiment.lr,
    }
    named_by_mark: dict[str, list] = {mark: [] for mark in rates}
    for name, parameter in model.named_parameters():
        mark = next(mark for mark in rates if mark in name)
        named_by_mark[mark].append((name, parameter))
    groups = []
    if embedding_rate != DEFAULT_EMBEDDING_RATE and not named_by_mark["lora_embedding_B"]:
        allowed = "needs an adapter on the embeddings, which lora_target does not name"
        raise ConfigError("loraplus_lr_embedding", embedding_rate, allowed)
    for mark, named in named_by_mark.items():
        groups += parameter_groups(named, rates[mark], experiment.weight_decay)
    return build_optimizer(groups, experiment, model)


def freeze_a(model: Any, use_lorafa: bool) -> Any:
    """Return the model, in which the A matrices stay as they are drawn under LoRA-FA.

    Raises:
        ConfigError: an adapter on embeddings, of which PEFT's LoRA-FA would train neither matrix.
    """
    if not use_lorafa:
        return model
    for name, parameter in model.named_parameters():
        if "lora_embedding_" in name:
            layer = name.partition(".lora_embedding_")[0].rpartition(".")[2]
            allowed = (
                "must name no embeddings, nor the head that is tied to them, where use_lorafa=true"
            )
            raise ConfigError("lora_target", layer, allowed)
        if "lora_A" in name:
            parameter.requires_grad_(False)
    return model


def make_lorafa(model: Any, experiment: Experiment) -> torch.optim.Optimizer:
    """Return PEFT's LoRA-FA optimizer: over pairs of A and B, and as plain AdamW over what else trains."""
    from peft.optimizers.lorafa import LoraFAOptimizer

    pairs: dict = {"params": [], "names": [], "scaling_factors": []}
    others = []
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            others.append((name, parameter))
            continue
        module = model.get_submodule(name.partition(".lora_")[0])
        (scaling,) = module.scaling.values()
        pairs["params"].append(parameter)
        pairs["names"].append(name)
        pairs["scaling_factors"].append(scaling)
    groups: Any = [{**pairs, "weight_decay": experiment.weight_decay}]
    names = {parameter: name for name, parameter in others}
    for group in parameter_groups(others, experiment.lr, experiment.weight_decay):
        # Its state lies under the names.
        group["names"] = [names[parameter] for parameter in group["params"]]
        group["scaling_factors"] = [None] * len(group["params"])
        groups.append(group)
    return LoraFAOptimizer(groups, lr=experiment.lr, betas=BETAS, eps=EPS)
