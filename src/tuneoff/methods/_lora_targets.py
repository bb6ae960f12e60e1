"""Targets of the LoRA family: which matrices PEFT can adapt, and under which names. Imports torch at its head."""

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from tuneoff.config import ConfigError
from tuneoff.methods._lora_renamed import RENAMED, find_renamed_layers
from tuneoff.models.bypassed_layers import BYPASSED, find_bypassed_layers, generalise_path
from tuneoff.models.layers import (
    Targets,
    computes_linear,
    find_targets,
    has_tied_head,
    shorten_names,
)


@dataclass
class PeftTargets:
    """What PEFT is asked to adapt, and what it cannot."""

    modules: list[str] = field(default_factory=list)  # paths of linear layers
    parameters: list[str] = field(
        default_factory=list
    )  # paths of weights: experts, for the most part
    left_out: dict[str, str] = field(default_factory=dict)  # path, with * for a number -> reason
    names_tied_head: bool = False


def choose_targets(model: Any, wanted: list[str], parameters_refused: str | None) -> PeftTargets:
    """Return what PEFT can adapt of the layers and experts that `lora_target` names.

    Args:
        model: the model without adapters.
        wanted: the option's value.
        parameters_refused: why weights that are no modules cannot be adapted under the other options; None: they can.

    Raises:
        ConfigError: a name that matches nothing, a named matrix that PEFT cannot adapt, or nothing left to adapt.
    """
    found = find_targets(model, wanted, "lora_target")
    chosen = PeftTargets()
    unusable = find_unusable_layers(model, found)
    head = model.get_output_embeddings()
    for path, layer in found.linears.items():
        chosen.names_tied_head |= layer is head and has_tied_head(model)
        if path in unusable:
            chosen.left_out[generalise_path(path)] = unusable[path]
            continue
        if not computes_linear(layer):
            reason = f"{type(layer).__name__} has a forward pass of its own"
            chosen.left_out[generalise_path(path)] = reason
            continue
        leaf = path.rpartition(".")[2]
        if not _refusal(model.config, leaf, target_modules=[leaf]):
            chosen.modules.append(path)
            continue
        # PEFT takes some names of linear layers for experts, which once had them; by its weight the layer is meant.
        weight = [f"{leaf}.weight"]
        refused = _refusal(model.config, leaf, target_modules=[], target_parameters=weight)
        if refused or parameters_refused:
            chosen.left_out[generalise_path(path)] = refused or str(parameters_refused)
        else:
            chosen.parameters.append(f"{path}.weight")
    for path, stack in found.experts.items():
        if parameters_refused:
            chosen.left_out[generalise_path(path)] = parameters_refused
        elif stack.parameter.ndim != 3:
            reason = "PEFT adapts no experts that lie one below the other in a flat matrix"
            chosen.left_out[generalise_path(path)] = reason
        else:
            chosen.parameters.append(path)
    _check_choice(chosen, wanted)
    return chosen


def find_unusable_layers(model: Any, found: Targets) -> dict[str, str]:
    """Return the linear layers on which an adapter would do nothing, or be lost, with the reason."""
    unusable = dict.fromkeys(find_renamed_layers(model, found.linears), RENAMED)
    unusable.update(dict.fromkeys(find_bypassed_layers(model), BYPASSED))
    return unusable


def leave_out_additional(chosen: PeftTargets, wanted: list[str], additional: list[str]) -> None:
    """Take out of the choice what `additional_target` trains in full already.

    Raises:
        ConfigError: where `lora_target` names it too, or nothing is left.
    """
    for paths in (chosen.modules, chosen.parameters):
        for path in list(paths):
            if any(f"{path}.".startswith(f"{module}.") for module in additional):
                paths.remove(path)
                layer = path.removesuffix(".weight")
                chosen.left_out[generalise_path(layer)] = "additional_target trains it in full"
    _check_choice(chosen, wanted)


def _check_choice(chosen: PeftTargets, wanted: list[str]) -> None:
    """Refuse a named matrix that cannot be adapted, and a choice that leaves nothing."""
    nothing_left = not chosen.modules and not chosen.parameters
    if chosen.left_out and (wanted != ["all"] or nothing_left):
        path, reason = next(iter(chosen.left_out.items()))
        raise ConfigError("lora_target", wanted, f"{path} cannot be adapted: {reason}")


def _refusal(config: Any, leaf: str, **targets: Any) -> str:
    """Return why PEFT would not adapt a linear layer called `leaf` in a model of this configuration; empty: it would.

    PEFT is asked itself, on a layer without storage, since its rules go by model types and names.
    """
    with torch.device("meta"):
        stub = nn.Module()
        stub.config = config
        stub.add_module(leaf, nn.Linear(2, 2))
        try:
            inject_adapter_in_model(LoraConfig(**targets), stub)
        except ValueError as error:
            return str(error).strip().partition("\n")[0]
    return ""


def shorten_targets(model: Any, chosen: PeftTargets) -> dict[str, Any]:
    """Return the arguments of `LoraConfig` that name the chosen targets, as briefly as their meaning allows."""
    module_paths = [path for path, _ in model.named_modules()]
    arguments = {"target_modules": shorten_names(chosen.modules, module_paths)}
    if chosen.parameters:
        parameter_paths = [path for path, _ in model.named_parameters()]
        arguments["target_parameters"] = shorten_names(chosen.parameters, parameter_paths)
    return arguments


def select_modules(model: Any, chosen: PeftTargets) -> Targets:
    """Return the chosen linear layers as targets, to check a rank on."""
    return Targets({path: model.get_submodule(path) for path in chosen.modules}, {})


def name_tied_head(model: Any, paths: list[str]) -> list[str]:
    """Return the paths with the head's in place of the tied embeddings', which PEFT knows by few names."""
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    renamed: list[str] = []
    for path in paths:
        if model.get_submodule(path) is embeddings:
            path = next(name for name, module in model.named_modules() if module is head)
        if path not in renamed:
            renamed.append(path)
    return renamed


def find_additional_modules(model: Any, names: list[str]) -> list[str]:
    """Return the whole paths of the modules that `additional_target` names.

    PEFT would take `norm` for the end of `input_layernorm` too.

    Raises:
        ConfigError: a name that matches nothing, or a module with quantised weights.
    """
    paths: list[str] = []
    for name in names:
        matching = []
        for path, module in model.named_modules():
            if f".{path}".endswith(f".{name}") and any(True for _ in module.parameters()):
                matching.append(path)
                if not all(weight.is_floating_point() for weight in module.parameters()):
                    allowed = "is quantised, so it cannot be trained"
                    raise ConfigError("additional_target", name, allowed)
        if not matching:
            raise ConfigError(
                "additional_target", name, "no such module with weights in this model"
            )
        paths += [path for path in matching if path not in paths]
    return paths


def check_tied_weight(
    model: Any,
    chosen: PeftTargets,
    wanted: list[str],
    additional: list[str],
    use_dora: bool,
) -> bool:
    """Return whether the options name the weight that the head and the embeddings share.

    Raises:
        ConfigError: options that would part it.
    """
    if not has_tied_head(model):
        return False
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    trains_in_full = any(model.get_submodule(path) in ends for path in additional)
    if chosen.names_tied_head and trains_in_full:
        allowed = "names the tied weight, which additional_target trains in full"
        raise ConfigError("lora_target", wanted, allowed)
    if chosen.names_tied_head and use_dora:
        allowed = (
            "names the weight that the head and the embeddings share, and DoRA's magnitudes "
            "would part it; additional_target=[lm_head] trains it in full"
        )
        raise ConfigError("lora_target", wanted, allowed)
    return chosen.names_tied_head or trains_in_full
