"""What the LoRA family saves beside PEFT's own adapter: merged models, PiSSA's residual base, converted adapters."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from tuneoff.methods._lora_model import merge_adapter
from tuneoff.models.layers import is_quantized


def save_merged(model: Any, folder: Path) -> dict:
    """Save the model without adapters in `folder/merged`.

    A quantised base is saved in ordinary weights: PEFT would round each sum to the quantised type again, and so lose a
    part of what was learned.

    Returns:
        Facts for the record: the largest difference that merging makes to a logit, on transformers' own dummy inputs,
        and a warning where it is beyond rounding.
    """
    inputs = {name: value.to(model.device) for name, value in model.dummy_inputs.items()}
    with torch.no_grad():
        trained_logits = model.eval()(**inputs).logits
        if is_quantized(model.get_base_model()):
            base = model.unload().dequantize()
            model = PeftModel.from_pretrained(base, folder)
        merged = merge_adapter(model)
        merged.save_pretrained(folder / "merged")
        merged_logits = merged(**inputs).logits
    distances = (merged_logits - trained_logits).abs()
    difference = distances.max().item()
    facts: dict = {"merged_logits_difference": difference}
    # So many roundings of the weights' type, relative to the largest logit, as its layers may add up to.
    rounding = max(1e-4, 16 * torch.finfo(trained_logits.dtype).eps)
    allowed = rounding * max(1.0, trained_logits.abs().max().item())
    if not difference <= allowed:
        facts["warnings"] = [
            f"the merged model's logits differ from the trained ones by {difference:.2g}, "
            f"where rounding makes {allowed:.2g} at most"
        ]
    return facts


def save_base(model: Any, folder: Path) -> int:
    """Save in `folder/base` the frozen weights that the adapter applies to, and point the adapter's config to them.

    They are not the base that was loaded: PiSSA has left a residual of it, or an older adapter is merged into it.

    Returns:
        The size of what was saved, in bytes.
    """
    base = model.get_base_model()
    weights = {}
    for name, value in base.state_dict().items():
        if "lora_" in name or ".modules_to_save." in name:
            continue
        plain_name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        weights[plain_name] = value
    base.save_pretrained(folder / "base", state_dict=weights)
    config = model.peft_config["default"]
    config.init_lora_weights = True
    config.base_model_name_or_path = str((folder / "base").resolve())
    return sum(file.stat().st_size for file in (folder / "base").iterdir())


def save_converted(model: Any, initial_adapter: dict[str, torch.Tensor], folder: Path) -> None:
    """Save an ordinary adapter of rank 2r for the untouched base: W + s(BA - B0 A0) = W + s [B, -B0] [A; A0].

    Args:
        model: the trained PiSSA model, with A (r, in) and B (out, r) of each layer.
        initial_adapter: A0 and B0 by the names under which PEFT saves them, as PiSSA set them before training.
        folder: where to save.
    """
    weights = get_peft_model_state_dict(model)
    for name, initial in initial_adapter.items():
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
    tensors = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
