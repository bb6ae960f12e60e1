"""Loading: a model from a hub, a folder or a GGUF file, or drawn at random from a shape."""

import logging as python_logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from tuneoff.config import (
    ConfigError,
    Experiment,
    MixedPrecision,
    Model,
    is_shipped,
    resolve_folder,
)
from tuneoff.data.hub_access import prepare_hub
from tuneoff.models import loading_errors
from tuneoff.models.loading_errors import explain_loading_errors
from tuneoff.models.shapes import build_config


def _silence_libraries() -> None:
    """Leave out the lines of libraries that tell a user nothing."""
    logging.disable_progress_bar()  # ours is the one that says something
    # It tells of kernels that nobody asked for.
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    # Padding is on the right, where no token looks: it takes no attention mask.
    python_logging.getLogger("transformers.modeling_utils").addFilter(
        lambda line: "attention_mask" not in str(line.msg)
    )
    # Of what is refused in a line of ours: RoBERTa and others, which see later tokens, and unknown rotary positions.
    refused = ("as a standalone", "Missing validation function")
    for handler in python_logging.getLogger("transformers").handlers:
        handler.addFilter(lambda line: not any(words in str(line.msg) for words in refused))
    ignored_warnings = (
        # PEFT, of GPT-2's transposed layers: it mends that.
        "fan_in_fan_out is set to False",
        # Said of accelerate's, PEFT's and our calls; earlier versions of transformers know no other name.
        "`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated",
        # PEFT, of an adapter on a GGUF file.
        "Could not find a config file in",
        # PEFT, of a kernel for CUDA alone that it does not find.
        "Failed to load the CUDA extension|Setting .* to 1 to speed up the finetuning process",
        # PyTorch's schedule, of the step that accelerate puts in the optimizer's place under fp16.
        r"Seems like `optimizer\.step\(\)` has been overridden",
        # PyTorch 2.11 on a GPU, of the masks of BAdam's ratio mode and of PEFT's SHiRA.
        "Sparse invariant checks are implicitly disabled",
    )
    for message in ignored_warnings:
        warnings.filterwarnings("ignore", message)


_silence_libraries()


def resolve_path(path: str) -> str:
    """The folder behind `tuneoff:NAME` (shipped with the package); any other path or hub name as it is."""
    folder = resolve_folder(path)
    if is_shipped(path) or folder.is_dir():
        return str(folder.absolute())  # since an adapter's config keeps it
    prepare_hub()
    return path


def loading_options(model: Model, at_path: bool = True) -> dict[str, Any]:
    """What `from_pretrained` needs beside the path.

    Args:
        at_path: whether what is read is at `model.path`, of the revision and from the GGUF file that are given there.
    """
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if at_path and model.revision is not None:
        options["revision"] = model.revision
    if at_path and model.gguf_file is not None:
        # The whole path: a file of this name in the working directory would come before the one in the folder.
        file = Path(resolve_path(model.path or "")) / model.gguf_file
        options["gguf_file"] = str(file) if file.exists() else model.gguf_file
    return options


def load_model(experiment: Experiment) -> PreTrainedModel:
    """Return the model in `experiment.dtype` on the CPU: pretrained, or drawn from torch's seeded global generator."""
    if not experiment.model.pretrained:
        return build_model(experiment)
    assert experiment.model.path  # `Model.check` has seen to it
    with explain_loading_errors(experiment.model):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            resolve_path(experiment.model.path),
            **loading_options(experiment.model),
            **_model_options(experiment),
            **_quantization_options(experiment),
            output_loading_info=True,
        )
    model, report = loaded
    loading_errors.refuse_missing(experiment.model.path, report["missing_keys"])
    loading_errors.refuse_adapted(experiment.model.path, model)
    model.unused_weights = sorted(report["unexpected_keys"])
    _part_joined_weights(model)
    return _set_up(model, experiment)


def _part_joined_weights(model: PreTrainedModel) -> None:
    """Give each weight that is a part of a larger tensor a storage of its own.

    Where a file holds matrices joined, transformers loads views of them. Views share one version counter, so that
    autograd takes a step on one, inside a backward pass, for a change of all.
    """
    separate: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_ordinary = (
                type(parameter) is nn.Parameter
            )  # bitsandbytes' own hold more than their tensor
            if not is_ordinary or parameter.untyped_storage().nbytes() <= parameter.nbytes:
                continue
            if parameter not in separate:  # a tied weight stays one
                own = parameter.detach().clone()
                separate[parameter] = nn.Parameter(own, parameter.requires_grad)
            setattr(module, name, separate[parameter])


def build_model(experiment: Experiment) -> PreTrainedModel:
    """Return the model without its pretrained weights, on torch's default device (on meta: no memory at all)."""
    config = load_config(experiment.model)
    with explain_loading_errors(experiment.model):
        model = AutoModelForCausalLM.from_config(
            config,
            trust_remote_code=experiment.model.trust_remote_code,
            **_model_options(experiment),
        )
    return _set_up(model, experiment)


def build_empty_model(experiment: Experiment) -> PreTrainedModel:
    """Return the model with its buffers, and its weights as names, shapes and types alone: another process has them."""
    from accelerate import init_empty_weights

    with torch.device("cpu"), init_empty_weights(include_buffers=False):
        model = build_model(experiment)
    model.tie_weights()  # each weight was made anew where it was set
    return model


def load_config(model: Model) -> PreTrainedConfig:
    """Return transformers' configuration at `model.path`; without a path, the shape in `model.config`.

    Raises:
        ConfigError: a configuration that transformers cannot read or does not know.
    """
    if model.path is not None:
        with explain_loading_errors(model):
            config = AutoConfig.from_pretrained(resolve_path(model.path), **loading_options(model))
        if model.pretrained:
            loading_errors.refuse_unknown_quantization(model.path, config)
        return config
    with explain_loading_errors(model):
        return build_config(model)


def _weight_dtype(experiment: Experiment) -> torch.dtype:
    """The type of the weights in torch's terms."""
    assert experiment.dtype  # null is resolved when an experiment is made
    return getattr(torch, experiment.dtype.name)


def _model_options(experiment: Experiment) -> dict[str, Any]:
    """What both ways of making a model are told of attention and type."""
    return {
        "attn_implementation": experiment.model.attention,
        "dtype": _weight_dtype(experiment),
    }


def _quantization_options(experiment: Experiment) -> dict[str, Any]:
    """What `from_pretrained` is told of quantisation; a null would hide that the weights are quantised already."""
    config = _quantization_config(experiment)
    return {} if config is None else {"quantization_config": config}


def _quantization_config(experiment: Experiment) -> BitsAndBytesConfig | GgufConfig | None:
    """How the base weights are stored: QLoRA's NF4 with double quantisation, LLM.int8(), or as `dtype` says."""
    if experiment.model.gguf_file is not None:
        # Where there are kernels for them, packed weights would stay, and not train.
        return GgufConfig(dequantize=True)
    if experiment.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if experiment.quantization is None:
        return None
    half = {MixedPrecision.bf16: torch.bfloat16, MixedPrecision.fp16: torch.float16}
    compute_dtype = half.get(experiment.mixed_precision) or _weight_dtype(experiment)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _set_up(model: PreTrainedModel, experiment: Experiment) -> PreTrainedModel:
    """Switch on what the settings ask of a model that was just made, and return it."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # In its first evaluation on such a CPU bitsandbytes would repack a 4-bit weight for inference: with scales
            # rounded to bfloat16, and no gradient through the layer from then on.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    if experiment.quantization is not None and model.device.type == "cuda":
        refuse_odd_widths(model, experiment.quantization)
    if experiment.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if experiment.model.liger and model.device.type != "meta":  # a prediction runs no kernel
        _apply_liger(model)
    return model


def refuse_odd_widths(model: PreTrainedModel, quantization: str) -> None:
    """Refuse quantised layers on which bitsandbytes' CUDA kernels fail, with an error that names none of this.

    Seen on an H200 with 5461 columns: `misaligned address` in 4 bits, `cublasLt ran into an error` in 8.

    Raises:
        ConfigError: a quantised layer has an odd number of inputs or outputs.
    """
    for path, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear) or layer.weight.is_floating_point():
            continue
        for width in (layer.in_features, layer.out_features):
            if width % 2:
                allowed = (
                    f"must be null for this model: {path} is {width} wide, and bitsandbytes' "
                    "CUDA kernels fail on odd widths"
                )
                raise ConfigError("quantization", quantization, allowed)


def _apply_liger(model: PreTrainedModel) -> None:
    """Put Liger's kernels in place of norms, rotary positions and MLPs, as transformers' Trainer does.

    Raises:
        ConfigError: without a CUDA device, or for a model type that Liger does not have.
    """
    if not torch.cuda.is_available():
        raise ConfigError("model.liger", True, "needs a CUDA device, and there is none")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    model_type = model.config.model_type
    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError("model.liger", True, f"Liger has no kernels for {model_type}")
    # Its loss takes the mean over a micro-batch; ours is over the whole step's label tokens.
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def describe_unused(names: list[str]) -> str | None:
    """Return in words which weights of a checkpoint its configuration has no place for; None where there are none."""
    if not names:
        return None
    return f"{len(names)} weights of the file, from {names[0]} to {names[-1]}"


def runtime_facts(model: PreTrainedModel, experiment: Experiment) -> dict[str, Any]:
    """What the record says of a loaded model: the attention that transformers chose, Liger, how weights are stored."""
    stored = getattr(model.config, "quantization_config", None)
    quantization = None
    if stored:
        quantization = {
            key: value for key, value in stored.to_dict().items() if not key.startswith("_")
        }
    return {
        # Of a hub's model; its newest may be another one tomorrow.
        "model_commit": getattr(model.config, "_commit_hash", None),
        "unused_weights": describe_unused(getattr(model, "unused_weights", [])),
        "attention": model.config._attn_implementation,
        "liger": experiment.model.liger,
        "quantization": quantization,
    }
