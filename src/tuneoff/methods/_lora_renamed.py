"""Renamed layers: those whose adapter PEFT would put elsewhere when it loads one. Imports torch at its head."""

from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig

RENAMED = "PEFT takes its name for one of an older checkpoint, and would not find its adapter again"
PREFIX = "base_model.model."  # of the names in a saved adapter
ADAPTER = ".default"  # what PEFT adds to them


def find_renamed_layers(model: Any, paths: Iterable[str]) -> set[str]:
    """Return which of these linear layers PEFT looks for under another name in a saved adapter.

    It reads one by transformers' list of names that older checkpoints have, of which some also fit a name of today:
    `mlp.shared_expert.` is a regular expression there, and fits `mlp.shared_experts`.
    """
    try:
        from peft.utils.transformers_weight_conversion import (
            convert_peft_adapter_state_dict_for_transformers as convert,
        )
    except ImportError:  # PEFT 0.18, which renames nothing
        return set()
    value = torch.empty(0)
    saved = {f"{PREFIX}{path}.lora_A.weight": path for path in paths}
    converted = convert(model, LoraConfig(), dict.fromkeys(saved, value))
    names = {name.replace(ADAPTER, "", 1).removeprefix(PREFIX) for name in converted}
    renamed = set()
    for name, path in saved.items():
        if name.removeprefix(PREFIX) not in names:
            renamed.add(path)
    return renamed
