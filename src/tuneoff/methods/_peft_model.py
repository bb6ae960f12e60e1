"""The model under one of PEFT's tuners, and what it adapts. Imports torch at its head."""

import inspect
import re
import warnings
from collections.abc import Collection
from typing import Any

from peft import PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tuneoff.config import ConfigError, format_value
from tuneoff.methods._peft_unused import refuse_without_effect
from tuneoff.models.blame import find_mentioned
from tuneoff.models.bypassed_layers import BYPASSED, find_bypassed_layers
from tuneoff.models.layers import (
    computes_linear,
    find_targets,
    has_tied_head,
    share_of_weights,
    shorten_names,
)

KEY = "peft_target"
# What PEFT and PyTorch raise of options that do not fit the model; a warning is one that PEFT would change.
REFUSED = (
    ValueError,
    TypeError,
    NotImplementedError,
    AssertionError,
    LookupError,
    ArithmeticError,
    re.error,
    UserWarning,
)


def choose_targets(model: Any, wanted: list[str]) -> list[str] | None:
    """Return the names of the modules to adapt, as PEFT takes them; None leaves them to PEFT.

    Raises:
        ConfigError: a name that matches nothing, or a weight that two modules share.
    """
    if wanted == ["own"]:
        return None
    if wanted == ["norms"]:
        chosen = [path for path, module in model.named_modules() if is_norm(module)]
    else:
        linears = find_targets(model, wanted, KEY).linears
        bypassed = find_bypassed_layers(model)
        refused = sorted(bypassed & linears.keys())
        if refused and wanted != ["all"]:
            raise ConfigError(KEY, wanted, f"{refused[0]} cannot be adapted: {BYPASSED}")
        chosen = []
        for path, layer in linears.items():
            if path not in bypassed and computes_linear(layer):
                chosen.append(path)
        head = model.get_output_embeddings()
        if has_tied_head(model) and any(layer is head for layer in linears.values()):
            allowed = "names the weight that the head and the embeddings share; PEFT would part it"
            raise ConfigError(KEY, wanted, allowed)
    if not chosen:
        raise ConfigError(KEY, wanted, "there is none in this model")
    return shorten_names(chosen, [path for path, _ in model.named_modules()])


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation: a vector of weights, as wide as what it normalises."""
    weight = getattr(module, "weight", None)
    is_vector = isinstance(weight, nn.Parameter) and weight.ndim == 1
    return is_vector and "norm" in type(module).__name__.lower()


def wrap_model(
    model: Any,
    tuner: str,
    options: dict[str, Any],
    targets: list[str] | None,
    given: Collection[str] = (),
) -> Any:
    """Return a `PeftModel` with a new adapter.

    Args:
        given: the options that were written, which a refusal names before others.

    Raises:
        ConfigError: what PEFT refuses or would change, or an adapter in which nothing trains.
    """
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(tuner.upper())]
    pattern = options.get("feedforward_modules")
    paths = [path for path, _ in model.named_modules()]
    if pattern and not any(re.fullmatch(pattern, path) for path in paths):
        allowed = "must be a regular expression for a module's whole path, as in .*down_proj"
        raise ConfigError("peft.feedforward_modules", pattern, allowed)
    arguments = dict(options)
    if "target_modules" in inspect.signature(config_class).parameters:
        arguments["target_modules"] = targets
    try:
        with warnings.catch_warnings():
            # PEFT goes on with another value, which no record would name.
            warnings.filterwarnings("error", r"Invalid `\w+` \(.*Adjusted")
            warnings.filterwarnings("error", "The symmetric initialization can NOT")
            adapted = get_peft_model(model, config_class(task_type="CAUSAL_LM", **arguments))
    except REFUSED as error:
        is_predicted = model.device.type == "meta"
        if is_predicted and isinstance(error, NotImplementedError):  # it has no values to read
            raise
        raise explain_refusal(error, options, given, targets) from error
    if not any(weight.requires_grad and weight.numel() for weight in adapted.parameters()):
        raise explain_refusal(ValueError("leaves nothing to train"), options, given, targets)
    refuse_without_effect(adapted, tuner, options, given)
    for tensor in (*adapted.parameters(), *adapted.buffers()):
        # Of a part that was taken out of a larger tensor, all the rest would stay in memory.
        if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
            tensor.data = tensor.data.clone()
    return adapted


def explain_refusal(
    error: Exception,
    options: dict[str, Any],
    given: Collection[str],
    targets: list[str] | None,
) -> ConfigError:
    """What PEFT refuses, in one line, as a refusal of what was written: else of what its message names."""
    message = " ".join(str(error).split())
    # A text of PEFT's that it has not filled in.
    message = re.sub(r"\{self\.(\w+)\}", r"\1", message)
    mentioned = find_mentioned(message, options)
    written = [name for name in given if name in options]
    chosen = [name for name in mentioned if name in written]
    # It names another option where it names any: a written one is what has changed.
    blamed = chosen or written or mentioned
    if not blamed:
        return ConfigError(KEY, targets or "own", message)
    first, *others = blamed if blamed is written else blamed[:1]
    also = "".join(f" peft.{name}={format_value(options[name])}" for name in others)
    value = format_value(options[first])
    return ConfigError(f"peft.{first}", value + also, message)


def leave_out_virtual_tokens(model: Any, tokens: int) -> None:
    """Take the virtual tokens' positions out of what the head reads, so that logits and labels stay side by side.

    They are there where the input of the head is longer than the row that was given: tuners of keys add no positions,
    and generation asks for the last position alone.
    """
    row_length = 0

    def remember_length(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal row_length
        row_length = kwargs["input_ids"].shape[1] if kwargs.get("input_ids") is not None else 0

    def leave_out(head: nn.Module, inputs: tuple) -> tuple:
        nonlocal row_length
        hidden, *others = inputs
        if row_length and hidden.shape[1] == tokens + row_length:
            hidden = hidden[:, tokens:]
        row_length = 0
        return hidden, *others

    model.register_forward_pre_hook(remember_length, with_kwargs=True)
    model.get_output_embeddings().register_forward_pre_hook(leave_out)


def share_of_adapted(model: Any, added: set[str]) -> float:
    """Return the share of the base model's weights that have an adapter on them, or train themselves.

    Args:
        added: names of the parameters that the adapter brought along.
    """
    reached: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            base = module.get_base_layer()
            reached.update(id(weight) for weight in base.parameters(recurse=False))
    covered = set()
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name not in added and (id(weight) in reached or weight.requires_grad):
            covered.add(name)
    return share_of_weights(model, covered, added)


def find_converted_rank(model: Any) -> int | None:
    """Return the rank of the plain LoRA that PEFT converts an adapter to without loss; None where it cannot.

    One layer of each shape is converted, by a singular value decomposition of its change in float32: what that rounds
    away does not count.
    """
    layers: dict[str, Any] = {}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            weight = getattr(module.get_base_layer(), "weight", None)
            layers[str(getattr(weight, "shape", ""))] = module
    if not layers or not all(layer.supports_lora_conversion() for layer in layers.values()):
        return None
    try:
        from peft import convert_to_lora  # PEFT 0.18 has none

        _, weights = convert_to_lora(nn.ModuleList(layers.values()), rank=1.0)
    except (ImportError, TypeError, ValueError, NotImplementedError, RuntimeError):
        return None
    return max(weight.shape[0] for name, weight in weights.items() if "lora_A" in name)
