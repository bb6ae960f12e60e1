"""Loading: a model and its tokenizer, from a hub, a folder, a GGUF file, or drawn at random from a shape."""

import json
import logging as python_logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tuneoff.config import (
    ConfigError,
    Experiment,
    MixedPrecision,
    Model,
    is_shipped,
    resolve_folder,
    suggest_nearest,
)

logging.disable_progress_bar()  # ours is the one that says something
python_logging.getLogger("bitsandbytes").setLevel(
    python_logging.ERROR
)  # it tells of kernels nobody asked for
# Padding is on the right, where no token looks: it takes no attention mask.
python_logging.getLogger("transformers.modeling_utils").addFilter(
    lambda line: "attention_mask" not in str(line.msg)
)
warnings.filterwarnings(
    "ignore", "fan_in_fan_out is set to False"
)  # PEFT, of GPT-2's transposed layers: it mends that
# Said of accelerate's, PEFT's and our calls; earlier versions of transformers know no other name.
warnings.filterwarnings(
    "ignore", "`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated"
)
warnings.filterwarnings(
    "ignore", "Could not find a config file in"
)  # PEFT, of an adapter on a GGUF file
DEFAULT_TOKENIZER = "tuneoff:tiny"  # of a shape without a path


def resolve_path(path: str) -> str:
    """The folder behind `tuneoff:NAME` (shipped with the package); any other path or hub name as it is."""
    folder = resolve_folder(path)
    # Absolute, since an adapter's config keeps it.
    return str(folder.absolute()) if is_shipped(path) or folder.is_dir() else path


@contextmanager
def explain_loading_errors(model: Model, key: str = "path") -> Iterator[None]:
    """Turn what transformers raises for a model it cannot give as asked into a refusal in one line.

    Raises:
        ConfigError: naming trust_remote_code, attention, or `key`. A fault of the disk or of memory passes.
    """
    try:
        yield
    except (
        OSError,
        ValueError,
        ImportError,
        struct.error,
    ) as error:  # the last of a torn GGUF file
        if getattr(error, "errno", None) is not None:
            raise
        said = str(error).strip().partition("\n")[0]
        if "trust_remote_code" in str(error):
            key, said = (
                "trust_remote_code",
                f"{model.path} brings code of its own, which runs only where this is true",
            )
        elif any(
            name in said
            for name in ("scaled_dot_product_attention", "Flash", "flash", "flex_attention")
        ):
            key, said = "attention", said.partition(" Please request")[0]
        elif model.gguf_file and key == "path":
            key, said = "gguf_file", f"cannot be read: {said}"
        raise ConfigError(f"model.{key}", getattr(model, key), said) from error


def _source(model: Model, gguf: bool = True) -> dict[str, Any]:
    """What `from_pretrained` needs to find and read what is at `model.path`, beside the path."""
    if model.gguf_file is None or not gguf:
        return {"trust_remote_code": model.trust_remote_code}
    # The whole path: a file of this name in the working directory would come before the one in the folder.
    here = Path(resolve_path(model.path or "")) / model.gguf_file
    return {
        "trust_remote_code": model.trust_remote_code,
        "gguf_file": str(here) if here.exists() else model.gguf_file,
    }


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a padding token (the end-of-text one where it has none).

    Raises:
        ConfigError: a vocabulary that the shape in `model.config` does not cover.
    """
    place = model.tokenizer or model.path or DEFAULT_TOKENIZER
    # First, so that a model that cannot be is refused in a line; of a GGUF file this would read the whole header again.
    config = None if model.gguf_file else model_config(model)
    with explain_loading_errors(model, "tokenizer" if model.tokenizer else "path"):
        tokenizer = AutoTokenizer.from_pretrained(
            resolve_path(place), **_source(model, gguf=model.tokenizer is None)
        )
    if config and model.path is None and len(tokenizer) > config.vocab_size:
        raise ConfigError(
            "model.config.vocab_size",
            config.vocab_size,
            f"must be at least {len(tokenizer)}, as {place} needs",
        )
    if model.gguf_file and model.tokenizer is None:
        _only_the_files_tokens(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _only_the_files_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take out the end token of GPT-2 that transformers adds to a GGUF file's vocabulary which does not have it.

    Its number lies beyond the embeddings, and PEFT would resize them to it when an adapter is loaded.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    known = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < known]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))


def load_model(experiment: Experiment) -> PreTrainedModel:
    """Return the model in `experiment.dtype` on the CPU: pretrained, or drawn from torch's seeded global generator."""
    if not experiment.model.pretrained:
        return build_model(experiment)
    assert experiment.model.path  # `Model.check` has seen to it
    with explain_loading_errors(experiment.model):
        model = AutoModelForCausalLM.from_pretrained(
            resolve_path(experiment.model.path),
            **_source(experiment.model),
            **_settings(experiment),
            quantization_config=_quantization(experiment),
        )
    return _ready(model, experiment)


def build_model(experiment: Experiment) -> PreTrainedModel:
    """Return the model without its pretrained weights, on torch's default device (on meta: no memory at all)."""
    config = model_config(experiment.model)
    with explain_loading_errors(experiment.model):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=experiment.model.trust_remote_code, **_settings(experiment)
        )
    return _ready(model, experiment)


def model_config(model: Model) -> PreTrainedConfig:
    """The configuration at `model.path`; without a path, the shape in `model.config`.

    Raises:
        ConfigError: a model type or a size that transformers does not know.
    """
    if model.path is not None:
        with explain_loading_errors(model):
            return AutoConfig.from_pretrained(resolve_path(model.path), **_source(model))
    sizes = dict(model.config or {})
    kind = sizes.pop("model_type")
    try:
        known = AutoConfig.for_model(kind).to_dict()
    except ValueError:
        raise ConfigError(
            "model.config.model_type", kind, "no model type that transformers knows"
        ) from None
    for key in sizes:
        if key not in known:  # transformers would keep it and go on with its default
            raise ConfigError(
                f"model.config.{key}",
                sizes[key],
                f"no such size of {kind}{suggest_nearest(key, known)}",
            )
    return AutoConfig.for_model(kind, **sizes)


def _settings(experiment: Experiment) -> dict[str, Any]:
    assert experiment.dtype  # null is resolved when an experiment is made
    return {
        "attn_implementation": experiment.model.attention,
        "dtype": getattr(torch, experiment.dtype.name),
    }


def _quantization(experiment: Experiment) -> BitsAndBytesConfig | GgufConfig | None:
    """How the base weights are stored: QLoRA's NF4 with double quantisation, LLM.int8(), or as `dtype` says."""
    if experiment.model.gguf_file is not None:
        return GgufConfig(
            dequantize=True
        )  # where there are kernels for it, packed weights would stay, and not train
    if experiment.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if experiment.quantization is None:
        return None
    half = {MixedPrecision.bf16: torch.bfloat16, MixedPrecision.fp16: torch.float16}
    assert experiment.dtype
    compute = half.get(experiment.mixed_precision, getattr(torch, experiment.dtype.name))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _ready(model: PreTrainedModel, experiment: Experiment) -> PreTrainedModel:
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # In its first evaluation on such a CPU bitsandbytes would repack a 4-bit weight for inference: with scales
            # rounded to bfloat16, and no gradient through the layer from then on.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    if experiment.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if experiment.model.liger and model.device.type != "meta":  # a prediction runs no kernel
        _apply_liger(model)
    return model


def _apply_liger(model: PreTrainedModel) -> None:
    """Put Liger's kernels in place of norms, rotary positions and MLPs, as transformers' Trainer does.

    Raises:
        ConfigError: without a CUDA device, or for a model type that Liger does not have.
    """
    if not torch.cuda.is_available():
        raise ConfigError("model.liger", True, "needs a CUDA device, and there is none")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(
            "model.liger", True, f"Liger has no kernels for {model.config.model_type}"
        )
    # Its loss takes the mean over a micro-batch; ours is over the whole step's label tokens.
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def runtime_facts(model: PreTrainedModel, experiment: Experiment) -> dict[str, Any]:
    """What the record says of a loaded model: the attention that transformers chose, Liger, how weights are stored."""
    stored = getattr(model.config, "quantization_config", None)
    return {
        "attention": model.config._attn_implementation,
        "liger": experiment.model.liger,
        "quantization": stored
        and {key: value for key, value in stored.to_dict().items() if key[0] != "_"},
    }
