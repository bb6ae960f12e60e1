"""Loads a model and its tokenizer, and finds decoder layers, linear layers, head and embeddings through the model.

Nothing here goes by name patterns, so that what works for Llama works for GPT-2 too.
"""
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from tuneoff.config import ConfigError, Experiment, Model, nearest


logging.disable_progress_bar()  # ours is the one that says something


def locate(path: str) -> str:
    """The folder behind `tuneoff:NAME` (shipped with the package); any other path or hub name as it is."""
    if path.startswith("tuneoff:"):
        return str(Path(__file__).parent / path.removeprefix("tuneoff:"))
    return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a padding token (the end-of-text one where it has none)."""
    tokenizer = AutoTokenizer.from_pretrained(locate(model.tokenizer or model.path),
                                              trust_remote_code=model.trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(run: Experiment) -> PreTrainedModel:
    """Return the model in `run.dtype` on the CPU: pretrained, or drawn from torch's seeded global generator."""
    settings: dict[str, Any] = {"attn_implementation": run.model.attention, "dtype": getattr(torch, run.dtype.name),
                                "trust_remote_code": run.model.trust_remote_code}
    path = locate(run.model.path)
    if run.model.pretrained:
        model = AutoModelForCausalLM.from_pretrained(path, **settings)
    else:
        config = AutoConfig.from_pretrained(path, trust_remote_code=run.model.trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, **settings)
    model.config.use_cache = False
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return (path, layers): the module list that holds most of the model's parameters.

    Raises:
        ValueError: where the model has no list of layers.
    """
    lists = {path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)}
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
    found = {}
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
    """The shortest names for `linear_modules` that PEFT understands: last segments if they mean the same, else paths."""
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
