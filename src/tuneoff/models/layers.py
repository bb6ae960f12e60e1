"""Layers: decoder layers, linear layers, head and embeddings, found through the model itself.

Nothing here goes by name patterns, so that what works for Llama works for GPT-2 too.
"""

import math
from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import (
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from tuneoff.config import ConfigError, suggest_nearest


def find_decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return (path, layers): the module list that holds most of the model's parameters.

    Raises:
        ValueError: where the model has no list of layers.
    """
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of decoder layers")
    # The outermost of equals: a mixture's list of experts lies inside a layer and is smaller.
    path = max(
        lists, key=lambda path: (sum(p.numel() for p in lists[path].parameters()), -len(path))
    )
    return path, lists[path]


def find_linear_layers(
    model: PreTrainedModel, wanted: list[str] | None, key: str
) -> dict[str, nn.Module]:
    """Return linear layers (`nn.Linear`, and `Conv1D` as in GPT-2) by path.

    Args:
        wanted: `["all"]` for all but the output head, else names matched on whole path segments.
        key: the option to name in an error.

    Raises:
        ConfigError: a name that matches no linear layer.
    """
    head = model.get_output_embeddings()
    linears = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    if wanted is None or wanted == ["all"]:
        return {path: module for path, module in linears.items() if module is not head}
    found: dict[str, nn.Module] = {}
    for name in wanted:
        matches = {path: module for path, module in linears.items() if matches_segments(name, path)}
        if not matches:
            leaves = sorted({path.rpartition(".")[2] for path in linears})
            raise ConfigError(
                key,
                name,
                f"no such linear layer; there are {', '.join(leaves)}{suggest_nearest(name, leaves)}",
            )
        found.update(matches)
    return found


def matches_segments(name: str, path: str) -> bool:
    """Whether `name` is a run of whole segments of a dotted path: `mlp` and `self_attn.q_proj`, never a part of one."""
    return f".{name}." in f".{path}."


def find_linear_names(model: PreTrainedModel, wanted: list[str], key: str) -> list[str]:
    """Names of `find_linear_layers` for PEFT: last segments where they mean the same modules, else whole paths."""
    chosen = find_linear_layers(model, wanted, key)
    leaves = {path.rpartition(".")[2] for path in chosen}
    meant = {path for path, module in model.named_modules() if path.rpartition(".")[2] in leaves}
    return sorted(leaves if meant == set(chosen) else chosen)


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether the base weights are stored in a quantised type."""
    return getattr(model, "is_quantized", False)


def has_tied_head(model: PreTrainedModel) -> bool:
    """Whether the output head and the input embeddings are one weight."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def count_parameters(model: nn.Module, ever_trained: Collection[str]) -> dict[str, int]:
    """Numbers of weights as a record has them: all, those that the whole run may train, and those that train now."""
    named = dict(model.named_parameters())
    return {
        "total": sum(map(_size, named.values())),
        "ever_trained": sum(_size(named[name]) for name in ever_trained),
        "trainable": sum(
            _size(parameter) for parameter in named.values() if parameter.requires_grad
        ),
    }


def _size(parameter: Any) -> int:
    # A 4-bit weight lies packed, and knows the shape it stands for.
    packed = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape) if packed else parameter.numel()
