"""The model under one of PEFT's tuners, and what it adapts. Imports torch at its head."""

import inspect
from typing import Any

from peft import PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tuneoff.config import ConfigError
from tuneoff.models.bypassed_layers import BYPASSED, find_bypassed_layers
from tuneoff.models.layers import (
    computes_linear,
    find_targets,
    has_tied_head,
    share_of_weights,
    shorten_names,
)

KEY = "peft_target"


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
) -> Any:
    """Return a `PeftModel` with a new adapter.

    Raises:
        ConfigError: what PEFT refuses, in its first line.
    """
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(tuner.upper())]
    if "target_modules" in inspect.signature(config_class).parameters:
        options["target_modules"] = targets
    try:
        adapted = get_peft_model(model, config_class(task_type="CAUSAL_LM", **options))
    except (ValueError, TypeError, NotImplementedError, AssertionError) as error:
        if model.device.type == "meta":  # a prediction's, which has no values to read
            raise
        reason = str(error).strip().partition("\n")[0]
        named = next((name for name in options if name in reason), None)
        if named is None or named == "target_modules":
            raise ConfigError(KEY, targets or "own", reason) from error
        raise ConfigError(f"peft.{named}", options[named], reason) from error
    for tensor in (*adapted.parameters(), *adapted.buffers()):
        # Of a part that was taken out of a larger tensor, all the rest would stay in memory.
        if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
            tensor.data = tensor.data.clone()
    return adapted


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
