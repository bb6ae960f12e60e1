"""What the LoRA family refuses of options that do not go together. Imports no torch."""

from typing import Any

from tuneoff.config import ConfigError, Experiment, Optimizer, Task, is_split
from tuneoff.methods._lora_stored import take_adapter

DEFAULT_EMBEDDING_RATE = 1e-6  # of the option `loraplus_lr_embedding`, as LLaMA-Factory has it


def check_options(method: Any, experiment: Experiment) -> None:
    """Refuse what PEFT cannot do, options without effect, and an adapter that cannot be gone on with.

    Args:
        method: a LoRA; an adapter that it goes on with brings its own settings, which take the place of the options.
    """
    if not method.pissa_init:
        method.refuse_unused("pissa_iter", "needs pissa_init=true")
    if method.loraplus_lr_ratio is None:
        method.refuse_unused("loraplus_lr_embedding", "needs loraplus_lr_ratio")
    if method.use_lorafa:
        check_frozen_a(method, experiment)
    if method.lora_init is not None:
        check_beginning(method, method.lora_init)
    if method.begins_from_data:
        check_data_beginning(method, experiment)
    else:
        method.refuse_unused("lora_init_steps", "needs lora_init=eva, lora_ga or corda")
    if method.pissa_convert:
        check_conversion(method, experiment)
    if experiment.quantised:
        check_quantised(method, *experiment.quantised)
    if method.adapter_path is not None:
        take_adapter(method, method.adapter_path, experiment)
        if method.use_lorafa:
            check_frozen_a(method, experiment)  # of what the adapter brings along
    elif method.create_new_adapter:
        raise ConfigError("create_new_adapter", True, "needs adapter_path")


def check_beginning(method: Any, kind: str) -> None:
    """Refuse two ways to begin an adapter, and orthogonal halves of an odd rank.

    Args:
        method: the LoRA whose `lora_init` is `kind`.
    """
    if method.pissa_init:
        raise ConfigError("lora_init", kind, "must be null where pissa_init=true")
    if method.adapter_path is not None and not method.create_new_adapter:
        allowed = "must be null where adapter_path is gone on with, which has begun already"
        raise ConfigError("lora_init", kind, allowed)
    if kind == "orthogonal" and method.lora_rank % 2:
        allowed = "must be even where lora_init=orthogonal"
        raise ConfigError("lora_rank", method.lora_rank, allowed)


def check_data_beginning(method: Any, experiment: Experiment) -> None:
    """Refuse data for an adapter on weights that are not those loaded whole, and a prediction without data."""
    kind = method.lora_init
    if method.adapter_path is not None:
        allowed = f"must be null where lora_init={kind}, which looks at data through the base alone"
        raise ConfigError("adapter_path", method.adapter_path, allowed)
    if is_split(experiment.sharding):
        allowed = f"does not run under {experiment.sharding}: it needs the whole model"
        raise ConfigError("lora_init", kind, allowed)
    if experiment.quantised:
        allowed = f"was never tried on quantised weights ({experiment.quantised[0]})"
        raise ConfigError("lora_init", kind, allowed)
    if experiment.task is Task.predict or experiment.skip_if_over_gib is not None:
        allowed = "cannot be predicted: what it computes from data before training is not foreseen"
        raise ConfigError("lora_init", kind, allowed)


def check_conversion(method: Any, experiment: Experiment) -> None:
    """Refuse a conversion that has nothing to convert, or nowhere to save it."""
    if not method.pissa_init:
        raise ConfigError("pissa_convert", True, "needs pissa_init=true")
    if method.use_dora:
        allowed = "a DoRA magnitude has no LoRA form; leave out use_dora"
        raise ConfigError("pissa_convert", True, allowed)
    if not experiment.save_model:
        raise ConfigError("pissa_convert", True, "needs save_model=true")
    if method.create_new_adapter:
        allowed = "is for the untouched base, into which create_new_adapter=true merges"
        raise ConfigError("pissa_convert", True, allowed)


def check_quantised(method: Any, key: str, value: str) -> None:
    """Refuse what would change base weights that `key` makes quantised."""
    weights = f"the base weights, which are quantised ({key}={value})"
    if method.pissa_init:
        raise ConfigError("pissa_init", True, f"would change {weights}")
    if method.changes_base:
        raise ConfigError("lora_init", method.lora_init, f"would change {weights}")
    if method.create_new_adapter:
        allowed = f"would merge the old one into {weights}"
        raise ConfigError("create_new_adapter", True, allowed)


def check_frozen_a(method: Any, experiment: Experiment) -> None:
    """Refuse what PEFT's LoRA-FA optimizer does not know of."""
    if experiment.optimizer is not Optimizer.adamw:
        allowed = "must be adamw where use_lorafa=true, which has an optimizer of its own"
        raise ConfigError("optimizer", experiment.optimizer, allowed)
    if is_split(experiment.sharding):
        allowed = f"does not run under {experiment.sharding}: it would invert shards"
        raise ConfigError("use_lorafa", True, allowed)
    if method.use_dora:
        raise ConfigError("use_dora", True, "must be false where use_lorafa=true")
    if method.loraplus_lr_ratio is not None:
        allowed = "must be null where use_lorafa=true, since A does not train"
        raise ConfigError("loraplus_lr_ratio", method.loraplus_lr_ratio, allowed)


def explain_linear_only(method: Any) -> str | None:
    """Return why PEFT adapts linear layers alone under a LoRA's options; None where it adapts experts too."""
    kind = None
    if method.use_dora:
        kind = "DoRA"
    elif method.use_lorafa:
        kind = "LoRA-FA"
    elif method.pissa_init:
        kind = "PiSSA"
    elif method.lora_init is not None:
        kind = method.lora_init
    if kind is not None:
        return f"PEFT's {kind} adapts linear layers alone"
    if method.lora_dropout:
        return "PEFT adapts linear layers alone where lora_dropout is above 0"
    return None
