"""Optimizers: those that several methods share, so that none of them differs by accident."""

from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch
from packaging.version import Version
from torch import nn
from torch._guards import detect_fake_mode

from tuneoff.config import ConfigError, Experiment, Optimizer

# One set of constants for every optimizer: galore-torch and bitsandbytes default to others than PyTorch.
BETAS = (0.9, 0.999)
EPS = 1e-8
FIRST_WITH_CPU_KERNELS = Version("0.50")  # of bitsandbytes
# transformers' and galore-torch's Adafactor share these names; the rate is ours, not theirs.
ADAFACTOR = {"scale_parameter": False, "relative_step": False}


def takes_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to biases (of experts, a stack), norms or magnitudes."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float,
    **extra: Any,
) -> list[dict]:
    """Split what trains into a group with weight decay and one without; empty groups are left out.

    Returns:
        Groups for a `torch.optim.Optimizer`, each with `params`, `lr`, `weight_decay` and `extra`.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            members = decayed if takes_weight_decay(name, parameter) else not_decayed
            members.append(parameter)
    groups = (
        {"params": decayed, "lr": lr, "weight_decay": weight_decay, **extra},
        {"params": not_decayed, "lr": lr, "weight_decay": 0.0, **extra},
    )
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict], experiment: Experiment) -> torch.optim.Optimizer:
    """Return the optimizer that `experiment.optimizer` names over `groups`.

    Raises:
        ConfigError: for 8-bit AdamW on a CPU, where bitsandbytes is too old for one.
    """
    if experiment.optimizer is Optimizer.adamw:
        # Fused on every device: the default differs between CPU and CUDA, in memory too.
        return torch.optim.AdamW(
            groups,
            lr=experiment.lr,
            betas=BETAS,
            eps=EPS,
            weight_decay=experiment.weight_decay,
            fused=True,
        )
    if experiment.optimizer is Optimizer.adafactor:
        from transformers.optimization import Adafactor

        return Adafactor(
            groups, lr=experiment.lr, weight_decay=experiment.weight_decay, **ADAFACTOR
        )

    check_eight_bit(experiment)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(
        groups,
        lr=experiment.lr,
        betas=BETAS,
        eps=EPS,
        weight_decay=experiment.weight_decay,
    )


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the record says of the optimizer in effect."""
    optimizer_class = type(getattr(optimizer, "base_optimizer", optimizer))
    return {
        "class": f"{optimizer_class.__module__}.{optimizer_class.__name__}",
        "fused": bool(optimizer.defaults.get("fused")),
        "groups": [
            {
                "parameters": sum(parameter.numel() for parameter in group["params"]),
                "lr": group["lr"],
                "weight_decay": group.get("weight_decay", 0.0),
            }
            for group in optimizer.param_groups
        ],
    }


def check_eight_bit(experiment: Experiment) -> None:
    """Refuse 8-bit AdamW where bitsandbytes has no kernels for it; a prediction runs no kernel.

    Raises:
        ConfigError: naming `optimizer`.
    """
    if torch.cuda.is_available() or detect_fake_mode() is not None:
        return
    installed = metadata.version("bitsandbytes")
    if Version(installed) < FIRST_WITH_CPU_KERNELS:
        raise ConfigError(
            "optimizer",
            experiment.optimizer,
            f"needs a CUDA device, or bitsandbytes {FIRST_WITH_CPU_KERNELS}: {installed} has no kernels for a CPU",
        )
