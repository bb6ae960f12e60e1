"""Sharding: what cannot be done with a model that FSDP2 or DeepSpeed splits over its processes. Imports no torch."""

import os
from typing import Any

from tuneoff.config.choices import Dtype, MixedPrecision, Optimizer
from tuneoff.config.options import ConfigError

# What `accelerate launch` sets of its file, where a value of it changes what is trained, with the one that was tried.
TRIED = {
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def is_split(sharding: str) -> bool:
    """Whether each process holds a part of the model, or of what trains it."""
    return sharding not in ("none", "ddp")


def check_sharding(experiment: Any) -> None:
    """Refuse what a model that is split over several processes cannot do.

    Args:
        experiment: all settings, their own ranges checked.

    Raises:
        ConfigError: naming the setting, or the variable that `accelerate launch` has set.
    """
    sharding = experiment.sharding
    if not is_split(sharding):
        return
    _check_engine(sharding)
    if experiment.exact_match is not None:
        allowed = (
            f"must be null under {sharding}, where no process "
            "has the model that would answer; lm-eval can ask the saved one"
        )
        raise ConfigError("exact_match", experiment.exact_match, allowed)
    if experiment.measure_serving:
        allowed = f"must be false under {sharding}, where no process has the model that would serve"
        raise ConfigError("measure_serving", True, allowed)
    if experiment.quantised:
        key, value = experiment.quantised
        raise ConfigError(key, value, f"was never tried under {sharding}; DDP takes it")
    if experiment.optimizer is not Optimizer.adamw:
        allowed = f"must be adamw under {sharding}: others step whole matrices, or were never tried"
        raise ConfigError("optimizer", experiment.optimizer, allowed)
    if experiment.mixed_precision is MixedPrecision.fp16:
        allowed = f"was never tried under {sharding}; bf16 is"
        raise ConfigError("mixed_precision", experiment.mixed_precision, allowed)
    if experiment.mixed_precision is MixedPrecision.bf16 and experiment.dtype is Dtype.bfloat16:
        allowed = f"must be float32 where mixed_precision=bf16 under {sharding}"
        raise ConfigError("dtype", experiment.dtype, allowed)


def _check_engine(sharding: str) -> None:
    """Refuse what the ready files of `conf/accelerate` do not have: an older FSDP, other stages, offloading."""
    if sharding.startswith("fsdp") and sharding != "fsdp2":
        version = sharding.removeprefix("fsdp")
        allowed = "must be 2, as conf/accelerate/fsdp2.yaml has it"
        raise ConfigError("FSDP_VERSION", version, allowed)
    if sharding.startswith("zero") and sharding not in ("zero2", "zero3"):
        stage = sharding.removeprefix("zero")
        allowed = "must be 2 or 3, as conf/accelerate/zero2.yaml and zero3.yaml have it"
        raise ConfigError("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage, allowed)
    file = os.environ.get(DEEPSPEED_FILE)
    if file:
        allowed = "is not read: its stage goes into accelerate's own file, as in conf/accelerate"
        raise ConfigError(DEEPSPEED_FILE, file, allowed)
    for variable, tried in TRIED.items():
        value = os.environ.get(variable, tried)
        if value.lower() != tried:
            raise ConfigError(variable, value, f"must be {tried}; nothing else was tried")
