"""Loads a model and its tokenizer, and finds decoder layers, linear layers, head and embeddings through the model.

Nothing here goes by name patterns, so that what works for Llama works for GPT-2 too.
"""
import logging as python_logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from tuneoff.config import ConfigError, Experiment, Model, nearest

logging.disable_progress_bar()  # ours is the one that says something
python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)  # it tells of kernels nobody asked for
# Said of accelerate's, PEFT's and our calls; earlier versions of transformers know no other name.
warnings.filterwarnings("ignore", "`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated")
DEFAULT_TOKENIZER = "tuneoff:tiny"  # of a shape without a path


def locate(path: str) -> str:
    """The folder behind `tuneoff:NAME` (shipped with the package); any other path or hub name as it is."""
    if path.startswith("tuneoff:"):
        return str(Path(__file__).parent / path.removeprefix("tuneoff:"))
    return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a padding token (the end-of-text one where it has none).

    Raises:
        ConfigError: a vocabulary that the shape in `model.config` does not cover.
    """
    place = model.tokenizer or model.path or DEFAULT_TOKENIZER
    tokenizer = AutoTokenizer.from_pretrained(locate(place), trust_remote_code=model.trust_remote_code)
    if model.path is None and len(tokenizer) > (size := model_config(model).vocab_size):
        raise ConfigError("model.config.vocab_size", size, f"must be at least {len(tokenizer)}, as {place} needs")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(run: Experiment) -> PreTrainedModel:
    """Return the model in `run.dtype` on the CPU: pretrained, or drawn from torch's seeded global generator."""
    if not run.model.pretrained:
        return build_model(run)
    assert run.model.path  # `Model.check` has seen to it
    return _ready(AutoModelForCausalLM.from_pretrained(locate(run.model.path), **_settings(run)), run)


def build_model(run: Experiment) -> PreTrainedModel:
    """Return the model without its pretrained weights, on torch's default device (on meta: no memory at all)."""
    return _ready(AutoModelForCausalLM.from_config(model_config(run.model), **_settings(run)), run)


def model_config(model: Model) -> PreTrainedConfig:
    """The configuration at `model.path`; without a path, the shape in `model.config`.

    Raises:
        ConfigError: a model type or a size that transformers does not know.
    """
    if model.path is not None:
        return AutoConfig.from_pretrained(locate(model.path), trust_remote_code=model.trust_remote_code)
    sizes = dict(model.config or {})
    kind = sizes.pop("model_type")
    try:
        known = AutoConfig.for_model(kind).to_dict()
    except ValueError:
        raise ConfigError("model.config.model_type", kind, "no model type that transformers knows") from None
    for key in sizes:
        if key not in known:  # transformers would keep it and go on with its default
            raise ConfigError(f"model.config.{key}", sizes[key], f"no such size of {kind}{nearest(key, known)}")
    return AutoConfig.for_model(kind, **sizes)


def _settings(run: Experiment) -> dict[str, Any]:
    assert run.dtype  # null is resolved when an experiment is made
    return {"attn_implementation": run.model.attention, "dtype": getattr(torch, run.dtype.name),
            "trust_remote_code": run.model.trust_remote_code}


def _ready(model: PreTrainedModel, run: Experiment) -> PreTrainedModel:
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return (path, layers): the module list that holds most of the model's parameters.

    Raises:
        ValueError: where the model has no list of layers.
    """
    lists = {path: module for path, module in model.named_modules()
             if isinstance(module, nn.ModuleList) and len(module)}
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of decoder layers")
    # The outermost of equals: a mixture's list of experts lies inside a layer and is smaller.
    path = max(lists, key=lambda path: (sum(p.numel() for p in lists[path].parameters()), -len(path)))
    return path, lists[path]


def linear_modules(model: PreTrainedModel, wanted: list[str] | None, key: str) -> dict[str, nn.Module]:
    """Return linear layers (`nn.Linear`, and `Conv1D` as in GPT-2) by path.

    Args:
        wanted: `["all"]` for all but the output head, else names matched on whole path segments.
        key: the option to name in an error.
    Raises:
        ConfigError: a name that matches no linear layer.
    """
    head = model.get_output_embeddings()
    linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if wanted is None or wanted == ["all"]:
        return {path: module for path, module in linears.items() if module is not head}
    found: dict[str, nn.Module] = {}
    for name in wanted:
        matches = {path: module for path, module in linears.items() if on_segments(name, path)}
        if not matches:
            leaves = sorted({path.rpartition(".")[2] for path in linears})
            raise ConfigError(key, name, f"no such linear layer; there are {', '.join(leaves)}{nearest(name, leaves)}")
        found.update(matches)
    return found


def on_segments(name: str, path: str) -> bool:
    """Whether `name` is a run of whole segments of a dotted path: `mlp` and `self_attn.q_proj`, never a part of one."""
    return f".{name}." in f".{path}."


def linear_names(model: PreTrainedModel, wanted: list[str], key: str) -> list[str]:
    """Names of `linear_modules` for PEFT: last segments where they mean the same modules, else whole paths."""
    chosen = linear_modules(model, wanted, key)
    leaves = {path.rpartition(".")[2] for path in chosen}
    meant = {path for path, module in model.named_modules() if path.rpartition(".")[2] in leaves}
    return sorted(leaves if meant == set(chosen) else chosen)


def tied(model: PreTrainedModel) -> bool:
    """Whether the output head and the input embeddings are one weight."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def count(parameters: Any) -> int:
    """Number of elements."""
    return sum(parameter.numel() for parameter in parameters)
