"""The types of a model's weights: what trains may be held in another than what is frozen. Imports torch at its head."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from tuneoff.config import ConfigError, Dtype
from tuneoff.record import read_json, write_json

CONFIG = "config.json"
# On a model whose weights are of two types: the type in which its matrices are multiplied.
AUTOCAST = "autocast_dtype"


def cast_trainable(model: Any, dtype: Dtype | None) -> None:
    """Give what trains a type, where it lies; None leaves all as it is.

    Matrices are then multiplied in the type that the frozen weights have, by autocast.

    Raises:
        ConfigError: another type than the weights have, where none of them is frozen.
    """
    if dtype is None:
        return
    trained_dtype = getattr(torch, dtype.name)
    frozen_dtype = model.dtype
    all_train = all(weight.requires_grad for weight in model.parameters())
    if all_train and frozen_dtype is not trained_dtype:
        allowed = f"needs frozen weights, and here all train: dtype={dtype.name} alone does"
        raise ConfigError("trainable_dtype", dtype, allowed)
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.to(trained_dtype)
    if frozen_dtype is not trained_dtype:
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        setattr(whole, AUTOCAST, frozen_dtype)


def use_own_precision(model: Any) -> AbstractContextManager:
    """The autocast without which a model cannot be called: of two types of weights, or Flash attention over float32."""
    weight = model.get_input_embeddings().weight
    dtype = getattr(model, AUTOCAST, None)
    flash = str(model.config._attn_implementation).startswith("flash")
    if flash and weight.dtype is torch.float32:
        dtype = torch.bfloat16
    if dtype is None:
        return nullcontext()
    return torch.autocast(weight.device.type, dtype)


def save_whole(model: Any, folder: Path) -> None:
    """Save a model so that it is loaded in the widest type of its weights, which rounds none.

    transformers names the type of the first weight alone.
    """
    model.save_pretrained(folder)
    if getattr(model, AUTOCAST, None) is None:
        return
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    widest = max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)
    config = read_json(folder / CONFIG) or {}
    write_json(folder / CONFIG, {**config, "dtype": str(widest).removeprefix("torch.")})
