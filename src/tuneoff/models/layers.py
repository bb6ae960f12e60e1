"""Layers: decoder layers, linear layers, experts, head and embeddings, found through the model itself.

Nothing here goes by the name of an architecture, so that what works for Llama works for GPT-2 too.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuneoff.config import ConfigError, suggest_nearest

Item = TypeVar("Item")


class ExpertStack(NamedTuple):
    """One parameter that holds the same matrix of several experts of a mixture, one after the other."""

    parameter: nn.Parameter  # (experts, rows, columns), or flat: (experts · rows, columns)
    experts: int

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns) of one expert's matrix."""
        *rows, columns = self.parameter.shape
        return math.prod(rows) // self.experts, columns


class Targets(NamedTuple):
    """The matrices that a method is asked to adapt, by their path in the model."""

    linears: dict[str, nn.Module]  # path of the module, whose `weight` is the matrix
    experts: dict[str, ExpertStack]  # path of the parameter

    def parameter_names(self) -> set[str]:
        """Names of the weights, as `model.named_parameters()` has them where no weight is tied."""
        return {f"{path}.weight" for path in self.linears} | set(self.experts)


def find_decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return (path, layers): the module list that holds most of the weights that read text.

    Raises:
        ConfigError: where the model has no list of layers.
    """
    inside = _modules_that_read_text(model)
    lists = {}
    lists_of_text = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            lists[path] = module
            if id(module) in inside:
                lists_of_text[path] = module
    lists = lists_of_text or lists
    if not lists:
        raise ConfigError(
            "model.path",
            getattr(model, "name_or_path", "") or type(model).__name__,
            "has no list of decoder layers, which this method goes by",
        )

    def size(path: str) -> tuple[int, int]:
        weights = sum(parameter.numel() for parameter in lists[path].parameters())
        # The outermost of equals: a mixture's list of experts lies inside a layer and is smaller.
        return weights, -len(path)

    path = max(lists, key=size)
    return path, lists[path]


def _modules_that_read_text(model: nn.Module) -> set[int]:
    """The modules of the decoder without the models inside it: an image tower may be larger than what reads text."""
    decoder = getattr(model, "get_decoder", lambda: None)()
    if decoder is None:
        return set()
    inside = {id(module) for module in decoder.modules()}
    for part in decoder.modules():
        if isinstance(part, PreTrainedModel) and part is not decoder:
            inside -= {id(module) for module in part.modules()}
    return inside


def find_targets(model: PreTrainedModel, wanted: list[str] | None, key: str) -> Targets:
    """Return the linear layers and the stacks of experts that `wanted` names.

    Args:
        wanted: `["all"]` for all but the output head, else names matched on whole path segments.
        key: the option to name in an error.

    Raises:
        ConfigError: a name that matches neither.
    """
    linears = _all_linear_layers(model)
    experts = find_experts(model)
    if wanted is None or wanted == ["all"]:
        head = model.get_output_embeddings()
        body = {path: module for path, module in linears.items() if module is not head}
        return Targets(body, experts)
    targets = Targets({}, {})
    for name in wanted:
        named_linears = _matching(name, linears) or _match_tied_head(name, model, linears)
        named_experts = _matching(name, experts)
        if not named_linears and not named_experts:
            leaves = sorted({_leaf(path) for path in [*linears, *experts]})
            raise ConfigError(
                key,
                name,
                f"no such linear layer; there are {', '.join(leaves)}{suggest_nearest(name, leaves)}",
            )
        targets.linears.update(named_linears)
        targets.experts.update(named_experts)
    return targets


def _match_tied_head(
    name: str, model: PreTrainedModel, linears: dict[str, nn.Module]
) -> dict[str, nn.Module]:
    """The output head by its path, where `name` is that of embeddings which share its weight; else nothing."""
    if not has_tied_head(model):
        return {}
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    for path, module in model.named_modules():
        if module is embeddings and matches_segments(name, path):
            return {own_path: layer for own_path, layer in linears.items() if layer is head}
    return {}


def find_linear_layers(
    model: PreTrainedModel, wanted: list[str] | None, key: str
) -> dict[str, nn.Module]:
    """Return the linear layers of `find_targets` by path, without the experts that are no modules."""
    return find_targets(model, wanted, key).linears


def find_experts(model: nn.Module) -> dict[str, ExpertStack]:
    """Return the stacks of experts' matrices by parameter path.

    transformers keeps the experts of a mixture in one parameter (Mixtral, Qwen-MoE, DeepSeek, gpt-oss, OLMoE, …),
    which is no linear layer. The module that holds it says how many experts there are.
    """
    stacks: dict[str, ExpertStack] = {}
    for path, module in model.named_modules():
        counts = _expert_counts(module)
        for name, parameter in module.named_parameters(recurse=False):
            experts = _experts_in(parameter, counts)
            if experts:
                stacks[f"{path}.{name}"] = ExpertStack(parameter, experts)
    return stacks


def _expert_counts(module: nn.Module) -> set[int]:
    """The numbers of experts that a module's attributes give: `num_experts`, `n_shared_experts`, `moe_num_experts`."""
    counts: set[int] = set()
    for name, value in vars(module).items():
        if "expert" in name and type(value) is int and value > 0:
            counts.add(value)
    return counts


def _experts_in(parameter: nn.Parameter, counts: set[int]) -> int:
    """How many experts' matrices `parameter` holds; 0 where it is no stack of them."""
    first, *others = parameter.shape or (0,)
    if len(others) == 2:
        return first if first in counts else 0
    if len(others) == 1:
        # One below the other, as in DBRX. A bias or a router has as many rows as there are experts; and of one expert
        # (a shared one) any matrix would be a stack.
        fitting = [count for count in counts if 1 < count < first and first % count == 0]
        return max(fitting, default=0)
    return 0


def _all_linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every `nn.Linear`, and `Conv1D` as in GPT-2, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def computes_linear(layer: Any) -> bool:
    """Whether a layer gives its input times its weight: an adapter is added to that.

    Routers of some mixtures (Llama 4, Phi-MoE) are linear layers by class alone and return scores, and DeepSeek V4 has
    one that multiplies by groups. The layer itself is asked, where its class has a forward pass of its own.
    """
    kind = type(layer)
    if kind in (nn.Linear, Conv1D) or kind.forward is nn.Linear.forward:
        return True
    # A quantised layer's own forward pass unpacks its weight.
    if not layer.weight.is_floating_point():
        return True
    weight = layer.weight
    sample = torch.ones(1, layer.in_features, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            output = layer(sample)
    except (RuntimeError, ValueError, IndexError):
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, layer.out_features)


def _matching(name: str, items: Mapping[str, Item]) -> dict[str, Item]:
    return {path: item for path, item in items.items() if matches_segments(name, path)}


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def matches_segments(name: str, path: str) -> bool:
    """Whether `name` is a run of whole segments of a dotted path: `mlp`, `self_attn.q_proj`, never a part of one."""
    return f".{name}." in f".{path}."


def shorten_names(chosen: Collection[str], existing: Iterable[str]) -> list[str]:
    """Names of the `chosen` paths for PEFT, which matches the end of a path: last segments, else whole paths.

    Args:
        existing: every path that PEFT compares with; last segments must mean none but the chosen.
    """
    leaves = {_leaf(path) for path in chosen}
    meant = {path for path in existing if _leaf(path) in leaves}
    return sorted(leaves if meant == set(chosen) else chosen)


def find_linear_names(model: PreTrainedModel, wanted: list[str], key: str) -> list[str]:
    """Names of `find_linear_layers` for PEFT: last segments where they mean the same modules, else whole paths."""
    modules = [path for path, _ in model.named_modules()]
    return shorten_names(find_linear_layers(model, wanted, key), modules)


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether the base weights are stored in a quantised type."""
    return getattr(model, "is_quantized", False)


def has_tied_head(model: PreTrainedModel) -> bool:
    """Whether the output head and the input embeddings are one weight."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def count_all_weights(model: nn.Module) -> int:
    """How many weights a model has; a tied one counts once."""
    return sum(map(count_weights, model.parameters()))


def share_of_weights(
    model: nn.Module, covered: Collection[str], added: Collection[str] = ()
) -> float:
    """Share of the base model's weights that a method covers, from 0 to 1; the same figure for every method.

    Args:
        covered: names of the base weights that the method can change: opened, projected, or with an adapter on them.
            A tied weight counts once, by any of its names.
        added: names of parameters that the method brought along, which are none of the base model's.
    """
    names: dict[nn.Parameter, set[str]] = {}  # of each weight, of a tied one several
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, set()).add(name)
    total = 0
    reached = 0
    for parameter, own_names in names.items():
        if own_names.isdisjoint(added):
            total += count_weights(parameter)
            if not own_names.isdisjoint(covered):
                reached += count_weights(parameter)
    return reached / total if total else 0.0


def count_weights(parameter: Any) -> int:
    """How many weights a parameter stands for.

    A 4-bit one lies packed, and knows its shape; one that ZeRO-3 has split is empty, and knows its size.
    """
    packed = getattr(parameter, "quant_state", None)
    if packed:
        return math.prod(packed.shape)
    return getattr(parameter, "ds_numel", None) or parameter.numel()


def count_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes of tensors, of which those that lie in the same place count once."""
    sizes = {}
    for tensor in tensors:
        sizes[tensor.data_ptr(), tensor.shape] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())
