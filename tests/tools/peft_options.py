"""Writes src/tuneoff/methods/_peft_options.json: the options of PEFT's config classes, which a refusal reads.

    python tests/tools/peft_options.py

A refusal must not import PEFT, which takes seconds. tests/test_shelf.py holds the file equal to the installed PEFT.
"""

import json
import re
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

FILE = Path(__file__).parents[2] / "src" / "tuneoff" / "methods" / "_peft_options.json"
# What the family sets itself, what lies in the model, and what is of other tasks.
SET_BY_US = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "total_step",
    "megatron_core",
    "runtime_offload_base_weight",
    "progressbar",
    "use_effective_conv2d",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "prompt_tuning_init_text",
    "bias",
    "generator_seed",  # no checkpoint holds such a generator, and recomputed activations draw from it again
}
# What a plain causal model, alone with its training rows, cannot train.
LEFT_OUT = {
    "adamss": "needs a package that tuneoff does not bring: scikit-learn",
    "cpt": "needs the token ids of a prompt, and labels of its own",
    "lora": "is a family of its own: method=lora",
    "multitask_prompt_tuning": "needs task ids",
    "poly": "needs task ids",
    "shadow": "passes on an object between layers, which the output head here does not take",
    "xlora": "needs trained adapters",
}
# Of these PEFT has no merged form: what they add depends on the input, or stands where a layer has no weight for it.
NOT_MERGED = [
    "adaption_prompt",
    "beft",
    "cartridge",
    "lily",
    "p_tuning",
    "prefix_tuning",
    "prompt_tuning",
]
# These do not start as the base model, at PEFT's own defaults.
OTHER_START = [
    "c3a",
    "cartridge",
    "fourierft",
    "p_tuning",
    "prefix_tuning",
    "prompt_tuning",
    "unilora",
    "vblora",
]
# PEFT has no value of its own for these, and fails without one.
NEEDED = ["adapter_layers", "adapter_len", "num_virtual_tokens", "token_indices"]
# Options that PEFT inherits from another tuner, and does not read.
NOT_READ = {
    "adalora": {"r", "use_dora", "init_lora_weights", "lora_bias", "use_rslora", "use_qalora"}
    | {"qalora_group_size", "ensure_weight_tying"}
}
# Options whose few values stand in an enum of PEFT's.
ENUMS = {
    "encoder_reparameterization_type": ["MLP", "LSTM"],
    "variant": ["road_1", "road_2", "road_4"],
    "prompt_tuning_init": ["RANDOM", "SAMPLE_VOCAB"],
}
# Where PEFT's type says no more than that it is a word or a truth value; with False, the memory stays as it was.
WORDS = [True, "uniform"]
# A whole number of such a name counts something, and a fraction scales something: neither can be 0.
COUNTS = ("r", "u", "deltaT", "stride_A")
COUNT_PREFIXES = ("num_", "n_")
COUNT_SUFFIXES = ("_r", "_k", "_B", "size", "len", "length", "layers", "topk", "alpha", "lambda")
SCALE_SUFFIXES = ("scaling", "alpha", "scale", "d_initial", "eps", "rate")
LONGEST_SENTENCE = 150
# Here 0 leaves the choice to another option.
MAY_BE_ZERO = ("oft_block_size", "boft_block_size", "hybrid_r")
# With fewer terms of the series nothing trains.
LOWEST = {"num_cayley_neumann_terms": 2}
# Where the first sentence of PEFT's help does not say what the option does.
SENTENCES = {
    ("c3a", "init_weights"): "How the kernels begin: with true at 0, as the base model does.",
    (
        "ia3",
        "feedforward_modules",
    ): "A regular expression for the whole paths of modules whose input is scaled, not their output.",
    (
        "lily",
        "init_weights",
    ): "Whether the B matrices begin at 0, so that the model starts as the base.",
    (
        "osf",
        "effective_rank",
    ): "The largest singular directions, which stay: how many (8), or their share (0.5 or 1.0); null is half.",
    (
        "peanut",
        "depth",
    ): "Hidden layers on each side of the adapter, between its input and output projections.",
    (
        "peanut",
        "init_weights",
    ): "Whether the output projection begins at 0, so that the model starts as the base.",
    (
        "psoft",
        "ab_svd_init",
    ): "The frozen factors: A has orthogonal rows (psoft_init), or both share the singular values (pissa_init).",
    ("psoft", "psoft_mag_a"): "Whether each direction that R takes has a trained factor.",
    ("psoft", "psoft_mag_b"): "Whether each direction that R gives has a trained factor.",
    ("psoft", "psoft_orth"): "Whether R stays orthogonal, by Cayley's map, or trains freely.",
    (
        "psoft",
        "r",
    ): "The rank of the principal subspace, and the size of the rotation R that trains in it.",
    ("psoft", "random_seed"): "The seed of the decomposition where psoft_svd=lowrank.",
    ("tinylora", "projection_seed"): "The seed of the fixed projections.",
}


def describe_type(tuner: str, config: Any) -> dict[str, dict]:
    """The options of a tuner by name, each with its kind, default and range."""
    hints = get_type_hints(config)
    options = {}
    for item in fields(config):
        if item.name in SET_BY_US or item.name in NOT_READ.get(tuner, ()):
            continue
        option = describe_option(item, hints[item.name])
        if option is not None:
            sentence = SENTENCES.get((tuner, item.name)) or shorten_help(item.metadata["help"])
            options[item.name] = {**option, "sentence": sentence}
    return options


def shorten_help(text: Any) -> str:
    """The first sentence of PEFT's help, which is once a tuple by mistake, or what of it fits into a line."""
    words = text if isinstance(text, str) else "".join(text)
    # Pieces of text that PEFT has put together without a space.
    words = re.sub(r"(?<=[a-z])\.(?=[A-Z][a-z])|(?<=[a-z])(?=(Whether|For|If|The)\b)", ". ", words)
    sentence = re.split(r"(?<=[a-z)\]'`0-9])\.\s", " ".join(words.split()))[0]
    if len(sentence) > LONGEST_SENTENCE:
        return sentence[:LONGEST_SENTENCE].rpartition(" ")[0].rstrip(",;:(.") + " …"
    return sentence.rstrip(".") + "."


def describe_option(item: Field, hint: Any) -> dict | None:
    """An option's kind, default and range; None where it is an object, which no command line gives."""
    default = item.default
    if isinstance(default, Enum):
        default = default.value
    if default is MISSING:
        default = None
    choices = find_choices(item.name, hint)
    if choices:
        return {"kind": "choice", "default": default, "choices": choices}
    kinds = [kind for kind in flatten(hint) if kind in (bool, int, float, str)]
    if kinds == [bool, str]:
        return {"kind": "choice", "default": default, "choices": WORDS}
    if get_origin(hint) is list:
        return {"kind": "list", "default": default}
    if not kinds or dict in flatten(hint):
        return None
    if int in kinds and float in kinds:
        return {"kind": "number", "default": default, "above": 0}
    kind = kinds[-1].__name__
    if kind in ("bool", "str"):
        return {"kind": kind, "default": default}
    return {"kind": kind, "default": default, **find_range(item.name, kinds[-1], default)}


def flatten(hint: Any) -> list[Any]:
    """The types of a union."""
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        return [kind for part in get_args(hint) for kind in flatten(part)]
    return [get_origin(hint) or hint]


def find_choices(name: str, hint: Any) -> list[Any]:
    """The values of an option that is one of a few; none where it is not."""
    if name in ENUMS:
        return ENUMS[name]
    parts = [hint, *get_args(hint)]
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    if words and bool in parts:
        words = [True, False, *words]
    return words


def find_range(name: str, kind: type, default: Any) -> dict[str, float]:
    """The range of a number: shares lie in [0, 1), counts from 1 on; what PEFT defaults to is always allowed."""
    if "dropout" in name:
        return {"low": 0, "below": 1}
    if name.startswith(("beta", "sparsity")):
        return {"above": 0, "below": 1}
    if kind is float:
        return {"above": 0} if name.endswith(SCALE_SUFFIXES) else {"low": 0}
    is_count = name in COUNTS or name.startswith(COUNT_PREFIXES) or name.endswith(COUNT_SUFFIXES)
    low = 1 if is_count and name not in MAY_BE_ZERO else 0
    low = LOWEST.get(name, low)
    return {"low": low if default is None else min(low, default)}


def describe_all() -> dict[str, Any]:
    """The options of every tuner, by its name in lower case, and what holds of some of them."""
    tuners = {}
    for tuner, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        name = tuner.value.lower()
        if name not in LEFT_OUT:
            tuners[name] = describe_type(name, config)
    return {
        "left_out": LEFT_OUT,
        "not_merged": NOT_MERGED,
        "other_start": OTHER_START,
        "needed": NEEDED,
        "tuners": dict(sorted(tuners.items())),
    }


def format_options(described: dict[str, Any]) -> str:
    """One option a line, so that a change of PEFT's is seen in the diff."""
    facts = {key: value for key, value in described.items() if key != "tuners"}
    text = json.dumps(facts, indent=1).removesuffix("\n}") + ',\n "tuners": {\n'
    tuners = []
    for tuner, options in described["tuners"].items():
        entries = [f'   "{name}": {json.dumps(option)}' for name, option in options.items()]
        inner = ",\n".join(entries)
        tuners.append(f'  "{tuner}": {{\n{inner}\n  }}')
    return text + ",\n".join(tuners) + "\n }\n}\n"


if __name__ == "__main__":
    FILE.write_text(format_options(describe_all()))
