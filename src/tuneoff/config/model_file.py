"""A model's config.json in a local folder, read without transformers: what makes no model is told before it loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneoff.config.options import ABSENT, ConfigError
from tuneoff.config.paths import is_folder

CONFIG = "config.json"
# Whole numbers above 0 in every model type that has them; in a few types one of them is a list.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "d_model",
    "n_embd",
    "n_layer",
    "n_head",
)
ALLOWED_SIZE = "must be a whole number above 0"


def check_model_file(key: str, path: str, folder: Path) -> None:
    """Refuse a model whose config.json is no JSON object, or holds sizes that no model has.

    Args:
        key: the setting that names the model.
        path: its value.
        folder: where the model is.

    Raises:
        ConfigError: naming the setting, and what is wrong in the file.
    """
    content = _read_object(key, path, folder / CONFIG)
    reason = describe_wrong_size(content)
    quantization = content.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        reason = f"quantization_config={json.dumps(quantization)}; must be an object, or null"
    if reason is not None:
        raise ConfigError(key, path, f"its {CONFIG} has {reason}")


def _read_object(key: str, path: str, file: Path) -> dict[str, Any]:
    """The object in a config.json."""
    try:
        content = json.loads(file.read_bytes().decode())
    except OSError as error:
        reason = "is a folder" if is_folder(file) else f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        reason = f"is no JSON: {where}: {error.msg}"
    except RecursionError:
        reason = "is nested too deep"
    else:
        if isinstance(content, dict):
            return content
        reason = "must hold an object, with the model's type and sizes"
    raise ConfigError(key, path, f"its {CONFIG} {reason}")


def check_shape(shape: Mapping[str, Any]) -> None:
    """Refuse sizes in `model.config` that no model has.

    Raises:
        ConfigError: naming the first.
    """
    reason = describe_wrong_size(shape)
    if reason is not None:
        written, _, allowed = reason.partition("; ")
        raise ConfigError(f"model.config.{written}", ABSENT, allowed)


def describe_wrong_size(content: Mapping[str, Any]) -> str | None:
    """The first size in a model's configuration that no model has, as `KEY=VALUE; what it must be`, or None."""
    for name in SIZES:
        value = content.get(name)
        if value is None or isinstance(value, list | dict):
            continue
        if type(value) is not int or value <= 0:
            return f"{name}={json.dumps(value)}; {ALLOWED_SIZE}"
    heads = content.get("num_attention_heads")
    groups = content.get("num_key_value_heads")
    if type(heads) is int and type(groups) is int and heads % groups:
        return f"num_key_value_heads={groups}; must divide num_attention_heads={heads}"
    text_part = content.get("text_config")
    return describe_wrong_size(text_part) if isinstance(text_part, dict) else None
