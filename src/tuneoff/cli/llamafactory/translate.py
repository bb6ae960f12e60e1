"""Translate: a YAML of LLaMA-Factory, key by key, into words of our command line."""

import os
from dataclasses import fields
from pathlib import Path

from tuneoff.cli.llamafactory import data_keys, keeping_keys, training_keys
from tuneoff.cli.llamafactory.keys import DEFAULTS, IGNORED, OFF, PREFIXES, REFUSED, TAKEN
from tuneoff.cli.llamafactory.method_choice import choose_method, take_options
from tuneoff.cli.llamafactory.translation import Translation, read_yaml
from tuneoff.config import Model

STAGES = {
    "rm": "a reward model",
    "ppo": "reinforcement by a reward model",
    "dpo": "preferences",
    "kto": "judged answers",
}
ATTENTION = {
    "sdpa": "sdpa",
    "fa2": "flash_attention_2",
    "disabled": "eager",
}


def translate(path: Path) -> Translation:
    """Return what a file of LLaMA-Factory's is here.

    Raises:
        ConfigError: a file that cannot be read.
    """
    result = Translation(path, read_yaml(path))
    if "model" in result.values and "model_name_or_path" not in result.values:
        result.refuse("model", "is of LLaMA-Factory's version 1, whose YAMLs have other keys")
        return result
    options = choose_method(result)
    _take_stage(result)
    _take_model(result)
    data_keys.take_data(result)
    training_keys.take_budget(result)
    training_keys.take_schedule(result)
    training_keys.take_precision(result, options)
    training_keys.take_quantization(result)
    training_keys.take_optimizer(result)
    training_keys.take_launcher(result)
    keeping_keys.take_run(result)
    _take_single_keys(result)
    take_options(result, options)
    for key in result.unsaid:
        result.refuse(key, "is no key of LLaMA-Factory that is known here")
    _sort_lines(result)
    return result


def _sort_lines(result: Translation) -> None:
    """Put the lines into the file's order, and behind them those of what it does not say."""
    places = {key: place for place, key in enumerate(result.values)}
    last = len(places)
    result.lines.sort(key=lambda line: places.get(line.key, last))


def _take_stage(result: Translation) -> None:
    if result.stage in STAGES:
        result.refuse("stage", f"trains by {STAGES[result.stage]}, which nothing here does")
    elif result.stage not in ("pt", "sft"):
        result.refuse("stage", "must be pt or sft")
    else:
        result.ignore("stage", "the columns of the data say it")


def _take_model(result: Translation) -> None:
    path = result.get("model_name_or_path")
    if not path:
        result.refuse("model_name_or_path", "must be given")
    else:
        # Of a hub's name what follows its owner, of a folder its own, also where it is written as a dot.
        name = os.path.basename(os.path.abspath(str(path)))
        result.take("model_name_or_path", f"model.path={path}", f"model.name={name}")
    revision = result.get("model_revision", "main")
    if revision == "main":
        result.ignore("model_revision", "is the default")
    elif any(item.name == "revision" for item in fields(Model)):
        result.take("model_revision", f"model.revision={revision}")
    else:
        result.refuse("model_revision", "needs that revision in a folder of this machine")
    attention = str(result.get("flash_attn", "auto"))
    if attention == "auto":
        result.ignore("flash_attn", "takes the model's own, as here")
    elif attention in ATTENTION:
        result.take("flash_attn", f"model.attention={ATTENTION[attention]}")
    else:
        result.refuse("flash_attn", f"there are auto, {', '.join(ATTENTION)}")


def _take_alone(result: Translation, key: str) -> None:
    """Take a key of `TAKEN`: the file's value, else LLaMA-Factory's own."""
    value = result.get(key, training_keys.UNSAID.get(key))
    if key == "max_grad_norm" and key in result.values:
        value = result.values[key]  # null clips nothing there
    try:
        words = TAKEN[key](value)
    except ValueError as error:
        result.refuse(key, str(error))
        return
    if words:
        result.take(key, *words)
    else:
        result.ignore(key, "is the default")


def _take_single_keys(result: Translation) -> None:
    """The keys that are decided alone, and those of which the file says nothing."""
    missing = [key for key in training_keys.UNSAID if key not in result.values]
    for key in [*result.unsaid, *missing]:
        if key in TAKEN:
            _take_alone(result, key)
        elif key in IGNORED:
            result.ignore(key, IGNORED[key])
        elif key not in REFUSED and key.startswith(tuple(PREFIXES)):
            beginning = next(one for one in PREFIXES if key.startswith(one))
            result.ignore(key, PREFIXES[beginning])
        elif key in REFUSED:
            value = result.values[key]
            if value in OFF or value in DEFAULTS.get(key, ()):
                result.ignore(key, "is off, or the default")
            else:
                result.refuse(key, REFUSED[key])
