"""Shapes: models that `model.config` describes, without a path; what no such model can be is refused."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tuneoff.config import ConfigError, Experiment, Model, suggest_nearest
from tuneoff.models.blame import find_mentioned
from tuneoff.models.generators import fork_generators
from tuneoff.models.precision import use_own_precision

PROBE_TOKENS = 4
# Types of Python in our words.
KINDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text"}
# What huggingface_hub says of a field whose value is of another type.
WRONG_TYPE = re.compile(r"expected (.+), got \w+ \(value")


def build_config(model: Model) -> PreTrainedConfig:
    """Return transformers' configuration of the shape in `model.config`.

    Raises:
        ConfigError: a model type or a size that transformers does not know.
        Exception: transformers' own, of a value that it does not take.
    """
    sizes = dict(model.config or {})
    model_type = sizes.pop("model_type")
    try:
        defaults = AutoConfig.for_model(model_type).to_dict()
    except ValueError:
        raise ConfigError(
            "model.config.model_type", model_type, "no model type that transformers knows"
        ) from None
    for key, value in sizes.items():
        if key not in defaults:  # transformers would keep it and go on with its default
            suggestion = suggest_nearest(key, defaults)
            raise ConfigError(
                f"model.config.{key}", value, f"no such size of {model_type}{suggestion}"
            )
        if type(value) is int and isinstance(defaults[key], float):
            sizes[key] = float(value)  # 0 for 0.0, which transformers refuses
    return AutoConfig.for_model(model_type, **sizes)


def explain_wrong_shape(
    shape: Mapping[str, Any],
    error: BaseException,
    reason: str,
) -> ConfigError:
    """What transformers has against the shape in `model.config`, as a refusal of the key that it names or means."""
    wrong_type = WRONG_TYPE.search(reason)
    if wrong_type:
        kind = wrong_type[1]
        reason = f"must be {KINDS.get(kind, kind)}"
    mentioned = find_mentioned(str(error), shape)
    if isinstance(error, KeyError):
        # It says which value was looked up, and not whose.
        value = repr(error.args[0])
        mentioned = [key for key in shape if value in repr(shape[key])]
        if mentioned:
            reason = "is not known to transformers"
    mentioned = mentioned or _find_culprit(shape)
    if not mentioned:
        return ConfigError("model.config", dict(shape) or None, reason)
    return ConfigError(f"model.config.{mentioned[0]}", shape[mentioned[0]], reason)


def _find_culprit(shape: Mapping[str, Any]) -> list[str]:
    """The one size without which such a model can be built; none where that is true of none or of several."""
    culprits = []
    for key in shape:
        rest = {other: value for other, value in shape.items() if other != key}
        if key != "model_type" and _can_be_built(rest):
            culprits.append(key)
    return culprits if len(culprits) == 1 else []


def _can_be_built(shape: Mapping[str, Any]) -> bool:
    """Whether transformers builds such a model, which is tried without its values."""
    try:
        with torch.device("meta"), fork_generators():
            config = build_config(Model(path=None, config=dict(shape)))
            AutoModelForCausalLM.from_config(config)
    except Exception:
        # Whatever it is, this is no such model.
        return False
    return True


def check_shape(model: PreTrainedModel, experiment: Experiment) -> None:
    """Refuse a shape that can be built and not trained, as an odd `head_dim`, after one small forward pass.

    Raises:
        ConfigError: naming the size whose value the error tells, or all of `model.config`.
    """
    shape = experiment.model.config
    if experiment.model.path is not None or not shape:
        return
    weight: Any = model.get_input_embeddings().weight
    ids = torch.arange(PROBE_TOKENS, device=weight.device)[None]  # (1 row, tokens)
    training = model.training
    try:
        with torch.no_grad(), fork_generators(), use_own_precision(model):
            # Dropout is looked at in training alone.
            logits = model.train()(input_ids=ids, use_cache=False).logits
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise _explain_failure(shape, str(error)) from error
    finally:
        model.train(training)
    if logits.device.type != "meta" and not logits.isfinite().all():
        raise _explain_no_numbers(shape)


def _explain_failure(shape: Mapping[str, Any], message: str) -> ConfigError:
    """What a forward pass has against a shape, as a refusal of the one size whose value it tells."""
    told = [key for key, value in shape.items() if _tells(message, value)]
    if len(told) > 1:
        words = set(re.findall(r"[a-z]+", message))
        told = [key for key in told if words.intersection(key.split("_"))]
    first_line = message.strip().partition("\n")[0]
    reason = f"such a model cannot be trained: {first_line}"
    if len(told) == 1:
        return ConfigError(f"model.config.{told[0]}", shape[told[0]], reason)
    return ConfigError("model.config", dict(shape), reason)


def _explain_no_numbers(shape: Mapping[str, Any]) -> ConfigError:
    """A model whose outputs are no numbers, as a refusal of the one size that is negative, or of them all."""
    reason = "such a model cannot be trained: its outputs are not finite"
    negative = [key for key, value in shape.items() if str(value).startswith("-")]
    if len(negative) == 1:
        return ConfigError(f"model.config.{negative[0]}", shape[negative[0]], reason)
    return ConfigError("model.config", dict(shape), reason)


def _tells(message: str, value: Any) -> bool:
    """Whether a message has this value as a number of its own."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return re.search(rf"(?<![\w.]){re.escape(str(value))}(?![\w.])", message) is not None
