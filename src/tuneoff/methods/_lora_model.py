"""The adapted model of the LoRA family: PEFT's, mended where it is wrong. Imports torch at its head."""

import warnings
from collections import Counter
from typing import Any

import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils import ModulesToSaveWrapper
from torch import nn

from tuneoff.config import ConfigError
from tuneoff.methods._lora_layer import use_lean_layers
from tuneoff.methods._lora_stored import find_adapter
from tuneoff.models.layers import share_of_weights

SMALL = 1e-3  # entries of B where DoRA has a zero row


def prepare_quantised(model: Any, use_dora: bool) -> Any:
    """Return a model with quantised weights on which adapters can train.

    Raises:
        ConfigError: DoRA on 8-bit weights on a CPU.
    """
    is_8bit = getattr(model, "is_loaded_in_8bit", False)
    if use_dora and is_8bit and model.device.type == "cpu":
        allowed = "on a CPU PEFT loses the scales of 8-bit weights; quantization=4bit works"
        raise ConfigError("use_dora", True, allowed)
    # Checkpointing is on already where it is asked for, by re-computation that needs no gradient at its input.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def wrap_model(model: Any, config: Any) -> Any:
    """Return a `PeftModel` with a new adapter.

    Raises:
        ConfigError: what PEFT refuses, in its first line.
    """
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError("lora_target", sorted(config.target_modules), reason) from error
    give_zero_rows_a_direction(adapted)
    use_lean_layers(adapted)
    share_tied_adapter(adapted)
    if (
        config.ensure_weight_tying
        and not has_tied_copies(adapted)
        and not has_tied_adapter(adapted)
    ):
        key = "additional_target" if config.modules_to_save else "lora_target"
        named = sorted(config.modules_to_save or config.target_modules)
        raise ConfigError(key, named, "names a tied weight that PEFT would part in this model")
    return adapted


def load_adapter(model: Any, path: str, trainable: bool) -> Any:
    """Return a `PeftModel` with the adapter at `path`, a folder or a hub name.

    Raises:
        ConfigError: an adapter that does not fit the model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say of missing weights is asked below
        try:
            folder = find_adapter(path)
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
            # Once more, since only this says which weights of the file had no place in the model.
            report: Any = adapted.load_adapter(str(folder), "default", is_trainable=trainable)
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
            lines = [line.strip() for line in str(error).strip().splitlines()]
            reason = next((line for line in lines if "mismatch" in line), lines[0])
            raise ConfigError("adapter_path", path, f"does not fit this model: {reason}") from error
    if report.missing_keys:
        allowed = "does not fit this model, which has layers that the adapter lacks"
        raise ConfigError("adapter_path", path, allowed)
    if report.unexpected_keys:
        first = min(report.unexpected_keys).removeprefix("base_model.model.")
        allowed = f"does not fit this model, which has no place for the adapter's {first}"
        raise ConfigError("adapter_path", path, allowed)
    give_zero_rows_a_direction(adapted)
    use_lean_layers(adapted)
    share_tied_adapter(adapted)
    return adapted


@torch.no_grad()
def give_zero_rows_a_direction(model: Any) -> None:
    """Make DoRA's rows of norm zero rows of B that are not: PEFT divides by the norm of W + BA, and 0 / 0 is no number.

    Such a row's magnitude is zero, so the model's function stays, and the row can train. The saved adapter is sound for
    PEFT alone, too.
    """
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for name, magnitude in layer.lora_magnitude_vector.items():
            if name in layer.lora_B:
                rows: Any = layer.lora_B[name].weight  # (out, r)
                magnitudes: Any = magnitude.weight  # (out,)
                is_zero = magnitudes.view(-1, 1) == 0
                rows.copy_(torch.where(is_zero, torch.full_like(rows, SMALL), rows))


class TransposedLinear(nn.Module):
    """A linear map whose weight is the transpose of an embedding adapter's parameter, and no parameter of its own."""

    def __init__(self, embeddings: Any, parameters: str, adapter: str):
        super().__init__()
        self.owner = [embeddings]  # in a list, so that it is no submodule here too
        self.parameters_name = parameters
        self.adapter = adapter
        self.bias = None

    @property
    def weight(self) -> torch.Tensor:
        """The parameter as it is now, transposed."""
        return getattr(self.owner[0], self.parameters_name)[self.adapter].T

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return nn.functional.linear(inputs, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # PEFT's loader looks for it.
        destination[f"{prefix}weight"] = self.weight.detach().contiguous()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}weight", None)


@torch.no_grad()
def share_tied_adapter(model: Any) -> None:
    """Make the adapters of a tied head and its embeddings one: B A on the one weight, in both uses.

    PEFT makes two of them that lie in the same memory, so that an optimizer steps twice, and `.to(device)` parts them;
    and PiSSA gives the head's its values alone.
    """
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    if not isinstance(head, LoraLayer) or not isinstance(embeddings, LoraLayer):
        return
    for name in list(head.lora_A):
        down: Any = head.lora_A[name].weight  # (r, hidden)
        up: Any = head.lora_B[name].weight  # (vocabulary, r)
        embeddings.lora_embedding_B[name].copy_(down.clone().T)
        embeddings.lora_embedding_A[name].copy_(up.clone().T)
        head.lora_A[name] = TransposedLinear(embeddings, "lora_embedding_B", name)
        head.lora_B[name] = TransposedLinear(embeddings, "lora_embedding_A", name)
    # PEFT keeps what it was made from: views of the embeddings' adapter, with which no copy of the model can be made.
    head.kwargs.pop("tied_adapter", None)


def has_tied_adapter(model: Any) -> bool:
    """Whether one adapter is on the tied head and embeddings."""
    head = model.get_output_embeddings()
    return isinstance(head, LoraLayer) and any(
        isinstance(layer, TransposedLinear) for layer in head.lora_A.values()
    )


def has_tied_copies(model: Any) -> bool:
    """Whether the tied weight trains as one of PEFT's `modules_to_save`."""
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    both_saved = isinstance(head, ModulesToSaveWrapper) and isinstance(
        embeddings, ModulesToSaveWrapper
    )
    return both_saved and head.weight is embeddings.weight


def merge_adapter(model: Any) -> Any:
    """Return the model with the adapter in its weights.

    PEFT adds what is on a tied head to the one weight: a tied adapter twice, and an adapter of the head alone (from
    elsewhere, since ours are tied) to the embeddings too. The former stays one weight here, the latter becomes two.
    """
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    if not isinstance(head, LoraLayer) or head.weight is not embeddings.weight:
        return model.merge_and_unload()
    is_one_adapter = has_tied_adapter(model)
    base_head = model.get_output_embeddings().get_base_layer()
    base_head.weight = nn.Parameter(base_head.weight.detach().clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has seen that the weights are two
        merged = model.merge_and_unload()
    if is_one_adapter:
        merged.get_output_embeddings().weight = merged.get_input_embeddings().weight
        merged.config.tie_word_embeddings = True
    return merged


def copy_adapter(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of the adapter's weights by the names under which PEFT saves them, on the host."""
    copies = {}
    for name, value in get_peft_model_state_dict(model).items():
        if "lora_" in name:
            copies[name] = value.detach().clone()
            if value.device.type != "meta":
                copies[name] = copies[name].cpu()
    return copies


def restore_base(
    model: Any,
    found: dict[str, torch.Tensor],
    saved: dict[str, torch.Tensor],
) -> bool:
    """Take another initial adapter out of the base than the one that was found; return whether it was another.

    Which singular vectors a machine finds, and their signs, depend on its threads and its device. LoRA-GA takes A and
    B from different ones, and so another base is left.

    Args:
        model: a `PeftModel` whose adapter is `found`; it is `saved` afterwards.
        found: A and B by the names under which PEFT saves them, on the host.
        saved: those that the run began with.
    """
    on_host = [value.cpu() for value in saved.values()]
    pairs = zip(found.values(), on_host, strict=True)
    if all(torch.equal(one, other) for one, other in pairs):
        return False
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    with torch.no_grad():
        for layer in layers:
            add_to_base(layer, 1)
        set_peft_model_state_dict(model, saved)
        for layer in layers:
            add_to_base(layer, -1)
    return True


def add_to_base(layer: Any, sign: int) -> None:
    """Add what the adapter of a layer adds to its outputs to its base weight, or subtract it."""
    weight = layer.get_base_layer().weight
    change = layer.get_delta_weight("default").to(torch.float32)
    weight.copy_(weight.to(torch.float32) + sign * change)


def count_ranks(model: Any) -> dict[str, int]:
    """Return how many adapters the model has of each rank, by the rank as a text, as JSON wants names."""
    ranks: Counter[int] = Counter()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            ranks.update(module.r.values())
    return {str(rank): count for rank, count in sorted(ranks.items())}


def share_of_adapted(model: Any) -> float:
    """Return the share of the base model's weights that have an adapter on them, or train in full beside it."""
    reached = set()
    for module in model.modules():
        if isinstance(module, ParamWrapper):
            reached.add(id(module.get_param()))
        elif isinstance(module, LoraLayer):
            reached.add(id(module.get_base_layer().weight))
        elif isinstance(module, ModulesToSaveWrapper):
            reached.update(id(weight) for weight in module.original_module.parameters())
    covered = set()
    added = set()
    for name, weight in model.named_parameters(remove_duplicate=False):
        if "lora_" in name or ".modules_to_save." in name:
            added.add(name)
        elif id(weight) in reached:
            covered.add(name)
    return share_of_weights(model, covered, added)
