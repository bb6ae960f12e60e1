"""Loading errors: what transformers raises for a model that it cannot give, as a refusal in one line."""

import re
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from tuneoff.config import ConfigError, Model, format_value
from tuneoff.config.model import CONFIG, HOLDS_ADAPTER
from tuneoff.data.hub_access import explain_hub_error
from tuneoff.models.shapes import explain_wrong_shape

# What transformers says of an attention that a model does not have, or whose package is missing.
ATTENTION_NAMES = ("scaled_dot_product_attention", "Flash", "flash", "flex_attention")
NO_TOKENIZER = "holds no tokenizer; model.tokenizer is the hub name or folder of one"
# What transformers raises of a folder or file that is torn, or that says what cannot be followed.
UNREADABLE = (
    OSError,
    ValueError,
    ImportError,
    LookupError,
    ArithmeticError,  # of a size that nothing can be divided by
    AssertionError,
    NotImplementedError,
    AttributeError,
    TypeError,
    struct.error,  # of a torn GGUF file
    UnpicklingError,
    EOFError,
    re.error,
    SafetensorError,
    StrictDataclassError,
)
# The same as a RuntimeError, which may also be a lack of memory: weights and sizes that do not go together.
WRONG_SIZES = re.compile(
    r"mismatched_sizes|negative dimension|invalid for input of size|size mismatch"
)


@contextmanager
def explain_loading_errors(model: Model, key: str = "path") -> Iterator[None]:
    """Turn what transformers raises for a model it cannot give as asked into a refusal in one line.

    Raises:
        ConfigError: naming trust_remote_code, attention, or `key`. A fault of the disk or of memory passes.
    """
    try:
        yield
    except ConfigError:
        raise
    except (*UNREADABLE, RuntimeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        if not isinstance(error, UNREADABLE) and not WRONG_SIZES.search(str(error)):
            raise
        reason = _describe_loading_error(error)
        hub_reason = explain_hub_error(error, str(getattr(model, key)))
        if "trust_remote_code" in str(error):
            key = "trust_remote_code"
            reason = f"{model.path} brings code of its own, which runs only where this is true"
        elif names_attention(reason, str(getattr(model, key))):
            key = "attention"
            reason = reason.partition(" Please request")[0]
        elif hub_reason:
            reason = hub_reason
            if model.revision is not None and "no such revision" in hub_reason:
                key = "revision"
        elif model.gguf_file and key == "path":
            key = "gguf_file"
            reason = f"cannot be read: {reason.removeprefix('cannot be read: ')}"
        if key == "path" and model.path is None:
            # Of a field that is checked the reason stands in the cause alone.
            cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
            told = cause or error
            reason = _describe_loading_error(told)
            raise explain_wrong_shape(model.config or {}, told, reason) from error
        raise ConfigError(f"model.{key}", getattr(model, key), reason) from error


def names_attention(reason: str, path: str) -> bool:
    """Whether transformers has something against an attention; a path may have the name of one, as GLM-Flash has."""
    without_path = reason.replace(path, "")
    return any(name in without_path for name in ATTENTION_NAMES)


def _describe_loading_error(error: BaseException) -> str:
    """What transformers has against a model, in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if "mismatched_sizes" in str(error):
        return "its weights do not have the sizes that its config.json says; the report above lists them"
    if "instantiate the backend tokenizer" in str(error):
        return NO_TOKENIZER
    if isinstance(error, StrictDataclassError):  # the second line says what was wrong in the field
        return f"its config.json cannot be read: {' '.join(lines)}"
    if isinstance(error, OSError | ValueError | ImportError | struct.error):
        return lines[0] if lines else type(error).__name__
    first_line = next(iter(lines), "")
    return f"cannot be read: {type(error).__name__}: {first_line}"


def refuse_missing(path: str, missing: Collection[str]) -> None:
    """Refuse a checkpoint that lacks weights of the model: transformers draws random ones for them.

    Raises:
        ConfigError: naming the first.
    """
    if missing:
        first = min(missing)
        allowed = (
            f"holds no {first}, one of {len(missing)} weights of the model that are missing; "
            "random ones would stand in for them"
        )
        raise ConfigError("model.path", path, allowed)


def refuse_adapted(path: str, model: Any) -> None:
    """Refuse a model into which transformers has loaded an adapter that lies beside its weights.

    Raises:
        ConfigError: with what goes on with an adapter.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError("model.path", path, HOLDS_ADAPTER)


def refuse_unknown_quantization(path: str, config: Any) -> None:
    """Refuse weights that are quantised in a way which transformers does not know: it takes them for ordinary ones.

    Raises:
        ConfigError: naming the way.
    """
    stored = getattr(config, "quantization_config", None)
    if not isinstance(stored, dict):
        return
    is_bitsandbytes = stored.get("load_in_4bit") or stored.get("load_in_8bit")
    method = stored.get("quant_method")
    if not is_bitsandbytes and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        named = f"quant_method={format_value(method)}"
        raise ConfigError(
            "model.path", path, f"its {CONFIG} has {named}, which transformers does not know"
        )
