"""Optimizers: those that several methods share, so that none of them differs by accident."""

import inspect
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch
from packaging.version import Version
from torch import nn
from torch._guards import detect_fake_mode

from tuneoff.config import PACKAGED, ConfigError, Experiment, Optimizer
from tuneoff.models.scales import is_scale

# One set of constants for every optimizer: galore-torch and bitsandbytes default to others than PyTorch.
BETAS = (0.9, 0.999)
EPS = 1e-8
FIRST_WITH_CPU_KERNELS = Version("0.50")  # of bitsandbytes
# transformers' and galore-torch's Adafactor share these names; the rate is ours, not theirs.
ADAFACTOR = {"scale_parameter": False, "relative_step": False}


def takes_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to biases (of experts, a stack), norms or magnitudes."""
    return parameter.ndim >= 2 and not name.endswith("bias") and not is_scale(parameter)


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


def build_optimizer(
    groups: list[dict], experiment: Experiment, model: nn.Module
) -> torch.optim.Optimizer:
    """Return the optimizer that `experiment.optimizer` names over `groups`.

    Args:
        model: whose parameters they are.

    Raises:
        ConfigError: as `build_eight_bit`.
    """
    if experiment.optimizer is Optimizer.muon:
        from tuneoff.models.muon import Muon, split_matrices

        parted = split_matrices(groups, model)
        return Muon(parted, experiment.lr, experiment.weight_decay, betas=BETAS, eps=EPS)
    if experiment.optimizer is Optimizer.adam_mini:
        from tuneoff.models.adam_mini import AdamMini

        return AdamMini(groups, experiment.lr, model, betas=BETAS, eps=EPS)
    if experiment.optimizer in PACKAGED:
        return build_packaged(groups, experiment, model)
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
    return build_eight_bit(groups, experiment)


def build_eight_bit(groups: list[dict], experiment: Experiment) -> torch.optim.Optimizer:
    """Return bitsandbytes' AdamW with 8-bit states over `groups`, paged or not.

    Raises:
        ConfigError: on a CPU, where bitsandbytes is too old for one, or has no paged memory.
    """
    check_eight_bit(experiment)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    optimizer_class: Any = AdamW8bit
    if experiment.optimizer is Optimizer.paged_adamw_8bit:
        optimizer_class = PagedAdamW8bit
    return optimizer_class(
        groups,
        lr=experiment.lr,
        betas=BETAS,
        eps=EPS,
        weight_decay=experiment.weight_decay,
    )


def build_packaged(
    groups: list[dict], experiment: Experiment, model: nn.Module
) -> torch.optim.Optimizer:
    """Return pytorch-optimizer's optimizer over `groups`, at the constants of its paper, with decoupled decay."""
    import pytorch_optimizer

    optimizer_class = getattr(pytorch_optimizer, PACKAGED[experiment.optimizer])
    settings: dict[str, Any] = {"lr": experiment.lr, "weight_decay": experiment.weight_decay}
    if "weight_decouple" in inspect.signature(optimizer_class).parameters:
        settings["weight_decouple"] = True
    optimizer = optimizer_class(groups, **settings)
    if experiment.optimizer is Optimizer.schedulefree:
        follow_mode(optimizer, model)
    return optimizer


def follow_mode(optimizer: Any, model: nn.Module) -> None:
    """Let the weights be those that train where the model is in training mode, and their average elsewhere.

    A schedule-free optimizer keeps both, and switches between them; here before each forward pass, so that whatever
    evaluates or saves the model has the average.
    """

    def switch(module: nn.Module, inputs: Any) -> None:
        if module.training:
            optimizer.train()
        else:
            optimizer.eval()

    model.register_forward_pre_hook(switch)
    find_base: Any = getattr(model, "get_base_model", None)
    if find_base is not None:  # generation calls what is under the adapters by itself
        find_base().register_forward_pre_hook(switch)


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the record says of the optimizer in effect."""
    optimizer_class = type(getattr(optimizer, "base_optimizer", optimizer))
    groups = []
    for group in optimizer.param_groups:
        facts = {
            "parameters": sum(parameter.numel() for parameter in group["params"]),
            "lr": group["lr"],
            "weight_decay": group.get("weight_decay", 0.0),
        }
        groups.append(facts)
    return {
        "class": f"{optimizer_class.__module__}.{optimizer_class.__name__}",
        "fused": bool(optimizer.defaults.get("fused")),
        "groups": groups,
    }


def check_eight_bit(experiment: Experiment) -> None:
    """Refuse 8-bit AdamW where bitsandbytes has no kernels for it; a prediction runs no kernel.

    Raises:
        ConfigError: naming `optimizer`.
    """
    if experiment.optimizer is Optimizer.paged_adamw_8bit and not torch.cuda.is_available():
        allowed = "needs a CUDA device, between whose memory and the host's its states are paged"
        raise ConfigError("optimizer", experiment.optimizer, allowed)
    if torch.cuda.is_available() or detect_fake_mode() is not None:
        return
    installed = metadata.version("bitsandbytes")
    if Version(installed) < FIRST_WITH_CPU_KERNELS:
        raise ConfigError(
            "optimizer",
            experiment.optimizer,
            f"needs a CUDA device, or bitsandbytes {FIRST_WITH_CPU_KERNELS}: {installed} has no kernels for a CPU",
        )
