"""What the LoRA family saves beside PEFT's own adapter: merged models, PiSSA's residual base, converted adapters."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from tuneoff.methods._lora_model import merge_adapter, share_tied_adapter
from tuneoff.methods._lora_stored import WEIGHTS, read_shapes
from tuneoff.models.layers import is_quantized
from tuneoff.models.precision import save_whole
from tuneoff.models.reading_back import (
    allow_rounding,
    check_logits,
    check_names,
    compute_logits,
    load_saved,
    make_room,
)


def read_back(
    model: Any, folder: Path, load_base: Callable[[], Any], pissa_init: bool
) -> PeftModel:
    """Load the adapter in `folder` on the weights that it applies to; `model` is taken apart.

    The base in memory serves where it is the adapter's: there is never a second one then.
    """
    own_base = folder / "base"
    if own_base.is_dir():
        return load_saved_adapter(load_saved(own_base, model.get_base_model()), folder)
    if pissa_init:  # converted, for the untouched weights, of which the model has the residual
        make_room(model)
        return load_saved_adapter(load_base(), folder)
    return load_saved_adapter(model.unload(), folder)


def load_saved_adapter(base: Any, folder: Path) -> Any:
    """Return the adapter in `folder` on `base`, as PEFT loads it.

    Raises:
        UnreadableExport: its weights are not those that its configuration asks for.
    """
    model = PeftModel.from_pretrained(base, folder)
    expected = {}
    for name, value in get_peft_model_state_dict(model).items():
        expected[name] = list(value.shape)
    saved = read_shapes(folder / WEIGHTS[0], str(folder))
    check_names("missing", expected.keys() - saved.keys())
    check_names("unexpected", saved.keys() - expected.keys())
    check_names("mismatched", {name for name in saved if saved[name] != expected[name]})
    return model


def save_merged(model: Any, folder: Path) -> dict:
    """Save the model without adapters in `folder/merged`, and read it back.

    A quantised base is saved in ordinary weights: PEFT would round each sum to the quantised type again, and so lose a
    part of what was learned.

    Returns:
        Facts for the record: the largest difference that merging makes to a logit, on transformers' own dummy inputs,
        and a warning where it is beyond rounding.

    Raises:
        UnreadableExport: what was saved is not the merged model.
    """
    ids = model.dummy_inputs["input_ids"]
    trained_logits = compute_logits(model, ids)
    allowed = allow_rounding(model, trained_logits)
    if is_quantized(model.get_base_model()):
        model = PeftModel.from_pretrained(dequantize(model.unload()), folder)
    merged = merge_trained(model)
    merged_logits = compute_logits(merged, ids)
    allowed_in_reading = allow_rounding(merged, merged_logits)
    save_whole(merged, folder / "merged")
    loaded = load_saved(folder / "merged", merged)
    check_logits(folder / "merged", merged_logits, compute_logits(loaded, ids), allowed_in_reading)
    difference = (merged_logits - trained_logits).abs().max().item()
    facts: dict = {"merged_logits_difference": difference}
    if not difference <= allowed:
        facts["warnings"] = [
            f"the merged model's logits differ from the trained ones by {difference:.2g}, "
            f"where rounding makes {allowed:.2g} at most"
        ]
    return facts


def merge_trained(model: Any) -> Any:
    """Return the model with its adapter in the weights; a copy, or a loaded model, has parted what was tied."""
    share_tied_adapter(model)
    return merge_adapter(model)


def dequantize(base: Any) -> Any:
    """Return a quantised model in ordinary weights, all of the type that its configuration names.

    For training PEFT has put what is not quantised into float32, beside which half-precision layers cannot run.
    """
    dtype = base.config.dtype
    return base.dequantize(dtype=dtype).to(dtype)


def save_base(model: Any, folder: Path) -> int:
    """Save in `folder/base` the frozen weights that the adapter applies to, and point the adapter's config to them.

    They are not the base that was loaded: PiSSA has left a residual of it, or an older adapter is merged into it.

    Returns:
        The size of what was saved, in bytes.
    """
    base = model.get_base_model()
    base.save_pretrained(folder / "base", state_dict=list_base_weights(base))
    config = model.peft_config["default"]
    config.init_lora_weights = True
    config.base_model_name_or_path = str((folder / "base").resolve())
    return sum(file.stat().st_size for file in (folder / "base").iterdir())


def list_weights_to_save(model: Any, has_own_base: bool) -> dict[str, torch.Tensor]:
    """Return the adapter by name, and the base beside it where that is not the one that was loaded."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    if has_own_base:
        weights |= list_base_weights(model.get_base_model())
    return weights


def list_base_weights(base: Any) -> dict[str, torch.Tensor]:
    """Return the weights below the adapters, by the names that they have without them."""
    weights = {}
    for name, value in base.state_dict().items():
        if "lora_" in name or ".modules_to_save." in name:
            continue
        plain_name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        weights[plain_name] = value
    return weights


def save_converted(
    model: Any,
    initial_adapter: dict[str, torch.Tensor],
    folder: Path,
) -> None:
    """Save an ordinary adapter of rank 2r for the untouched base: W + s(BA - B0 A0) = W + s [B, -B0] [A; A0].

    Args:
        model: the trained PiSSA model, with A (r, in) and B (out, r) of each layer.
        initial_adapter: A0 and B0 by the names under which PEFT saves them, as PiSSA set them before training.
        folder: where to save.
    """
    weights = get_peft_model_state_dict(model)
    for name, copied in initial_adapter.items():
        initial = copied.to(weights[name].device)
        if "lora_A" in name:
            weights[name] = torch.cat([weights[name], initial], dim=0)  # (2r, in)
        elif "lora_embedding_B" in name:  # A transposed
            weights[name] = torch.cat([weights[name], initial], dim=1)  # (in, 2r)
        elif "lora_embedding_A" in name:  # B transposed
            weights[name] = torch.cat([weights[name], -initial], dim=0)  # (2r, out)
        else:
            weights[name] = torch.cat([weights[name], -initial], dim=1)  # (out, 2r)
    config = copy.deepcopy(model.peft_config["default"])
    config.r *= 2
    # The scale alpha / r (or alpha / sqrt(r)) stays.
    config.lora_alpha *= 2**0.5 if config.use_rslora else 2
    config.init_lora_weights = True
    config.inference_mode = True
    config.save_pretrained(folder)
    # Copies, since tied weights among `additional_target` are one, which safetensors does not save.
    tensors = {}
    for name, value in weights.items():
        tensors[name] = value.detach().clone().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
