"""The data of a YAML of LLaMA-Factory: sets, template, what is trained of them, packing, and validation rows."""

import re
from itertools import count
from typing import Any

from tuneoff.cli.llamafactory.datasets import UnusableSet, find_info, translate_set
from tuneoff.cli.llamafactory.keys import OFF
from tuneoff.cli.llamafactory.kinds import read_number, write_number
from tuneoff.cli.llamafactory.translation import Translation
from tuneoff.config.templates import NAMED_TEMPLATES

# Templates that put an empty thought before each answer without one.
THINKING = ("qwen3", "qwen3_5", "qwen3_vl", "deepseekr1", "glm4_moe", "hunyuan", "mimo")
# How several sets become one, with ours.
MIXING = {
    "concat": "concatenate",
    "interleave_under": "interleave_under",
    "interleave_over": "interleave_over",
}

TAKEN_OUT = "of the training rows, whatever rows for validation the set has"


def take_data(result: Translation) -> None:
    """Take all keys about data."""
    names, judging = _take_sets(result)
    # Of several sets each has keys of its own.
    every_name = [*names, *judging]
    prefixes = ["data"]
    if len(every_name) > 1:
        prefixes = [f"data.sets.{name}" for name in every_name]
    if result.stage == "sft":
        _take_template(result, prefixes)
    else:
        result.ignore("template", "stage: pt trains text as it is")
    _take_trained_part(result, prefixes)
    _take_packing(result)
    _take_validation(result, prefixes, judging)
    _take_limit(result, prefixes)


def _take_limit(result: Translation, prefixes: list[str]) -> None:
    """Take so many rows of a set, training and validation rows together."""
    if result.get("max_samples") is None:
        result.ignore("max_samples", "is off")
        return
    rows = result.whole("max_samples", 1, lowest=1)
    size = result.number("val_size", 0)
    held_out = int(size) if size >= 1 else round(size * rows)
    if not 0 < held_out < rows:
        result.take("max_samples", *_for_each(prefixes, f"limit={rows}"))
        return
    words = _for_each(prefixes, f"limit={rows - held_out}", f"eval_limit={held_out}")
    result.take("max_samples", *words, note="drawn of all rows here, of the first there")


def _for_each(prefixes: list[str], *words: str) -> list[str]:
    """Return words of a set for each of the sets."""
    return [f"{prefix}.{word}" for prefix in prefixes for word in words]


def _list_names(written: Any) -> list[str]:
    """Return the sets that a key names, by a list or with commas between them."""
    if written in OFF:
        return []
    listed = written if isinstance(written, list) else str(written).split(",")
    return [str(name).strip() for name in listed]


def _take_sets(result: Translation) -> tuple[list[str], list[str]]:
    """Take the sets; returns the names of those to train on, and of those that judge alone."""
    listed = _list_names(result.get("dataset"))
    judging = _list_names(result.get("eval_dataset"))
    result.ignore("dataset_dir", "is where the files are looked for")
    if not listed:
        result.refuse("dataset", "must be given")
        result.ignore("eval_dataset", "judges what dataset trains")
        return [], []
    every_name = _name_sets([*listed, *judging])
    names = every_name[: len(listed)]
    sets = _find_sets(result, "dataset", listed)
    judging_sets = _find_sets(result, "eval_dataset", judging)
    trained_too = [name for name in judging if name in listed]
    if trained_too:
        needed = f"{trained_too[0]} is trained, and no row judges here that is; val_size takes some"
        result.refuse("eval_dataset", needed)
        return names, []
    if sets is None or judging_sets is None:
        if judging_sets is not None:
            result.ignore("eval_dataset", "judges what dataset trains")
        return names, []
    judging_names = every_name[len(listed) :]
    if len(sets) + len(judging_sets) == 1:
        words = ["data=json"]
        words += [f"data.{key}={value}" for key, value in sets[0].items()]
        result.take("dataset", *words)
    else:
        _take_several(result, [*names, *judging_names], [*sets, *judging_sets])
    if judging_names:
        prefixes = [f"data.sets.{name}" for name in judging_names]
        note = "training rows that ask the same are left out"
        result.take("eval_dataset", *_for_each(prefixes, "only_for=validation"), note=note)
    else:
        result.ignore("eval_dataset", "is off")
    _take_mixing(result, names)
    return names, judging_names


def _name_sets(listed: list[str]) -> list[str]:
    """Return sets' names as ours may be, each another: a-b and a_b are a_b and a_b_2."""
    names: list[str] = []
    for name in listed:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        candidates = (plain if turn == 1 else f"{plain}_{turn}" for turn in count(1))
        names.append(next(each for each in candidates if each not in names))
    return names


def _find_sets(
    result: Translation,
    key: str,
    listed: list[str],
) -> list[dict[str, str]] | None:
    """Return our settings of the sets that a key names; what is not there is refused, and None."""
    if not listed:
        return []
    folder = result.get("dataset_dir", "data")
    try:
        info, place = find_info(folder, result.source)
        sets = [translate_set(name, info, place, result.stage) for name in listed]
    except UnusableSet as error:
        result.refuse(key, str(error))
        return None
    for each in sets:
        names_pair = "columns.prompt" in each
        may_have_input = "columns.input" in each or not names_pair
        if result.stage == "sft" and "columns.messages" not in each and may_have_input:
            each["input_break"] = "line"
    return sets


def _take_several(
    result: Translation,
    names: list[str],
    sets: list[dict[str, str]],
) -> None:
    """Take sets of which each has keys of its own."""
    listed = ",".join(f"{name}:json" for name in names)
    words = [f"data=[{listed}]"]
    for name, settings in zip(names, sets, strict=True):
        for key, value in settings.items():
            if key != "name":
                words.append(f"data.sets.{name}.{key}={value}")
    result.take("dataset", *words)


def _take_mixing(result: Translation, names: list[str]) -> None:
    """Take how the sets that train become one."""
    if len(names) == 1:
        for key in ("mix_strategy", "interleave_probs"):
            result.ignore(key, "there is one set")
        return
    strategy = str(result.get("mix_strategy", "concat"))
    if strategy not in MIXING:
        result.refuse("mix_strategy", f"there are {', '.join(MIXING)}")
    else:
        result.take("mix_strategy", f"data.mixing={MIXING[strategy]}")
    weights = result.get("interleave_probs")
    if weights is None:
        result.ignore("interleave_probs", "is off")
        return
    shares = weights if isinstance(weights, list) else str(weights).split(",")
    needed = f"must be {len(names)} numbers above 0, one for each set"
    words = []
    try:
        for name, share in zip(names, shares, strict=True):
            weight = read_number(share, above=0)
            words.append(f"data.sets.{name}.weight={write_number(weight)}")
    except ValueError:
        result.refuse("interleave_probs", needed)
        return
    result.take("interleave_probs", *words)


def _take_template(result: Translation, prefixes: list[str]) -> None:
    written = result.get("template")
    name = str(written)
    if written is None:
        words = _for_each(prefixes, "template=auto")
        result.take("template", *words, note="the tokenizer's own where it has one")
    elif name in NAMED_TEMPLATES:
        words = _for_each(prefixes, f"template={name}")
        result.take("template", *words, note="its text, token by token")
    else:
        words = _for_each(prefixes, "template=chat")
        result.take("template", *words, note="the tokenizer's own chat template")
        result.warn(
            f"template: {name} is not known here by its text; the tokenizer's own chat template is taken"
        )
        if name in THINKING and result.get("enable_thinking", True):
            result.warn(
                f"template: {name} begins answers with an empty thought there, and not here"
            )
    for key in ("enable_thinking", "preserve_thinking"):
        result.ignore(key, "the chat template says what becomes of thoughts")
    system = result.get("default_system", "")
    if not isinstance(system, str):
        result.refuse("default_system", "must be a text; quotes make one of it")
    elif system:
        result.take("default_system", *_for_each(prefixes, f"default_system={system}"))
    else:
        result.ignore("default_system", "is off")
    result.warn(
        "rows longer than cutoff_len lose parts of prompt and answer there, and their end here"
    )


def _take_trained_part(result: Translation, prefixes: list[str]) -> None:
    note = "the loss on validation rows is that of all answers"
    if result.is_on("train_on_prompt"):
        result.take("train_on_prompt", *_for_each(prefixes, "train_on=all"), note=note)
    if result.is_on("mask_history"):
        result.take("mask_history", *_for_each(prefixes, "train_on=last_answer"), note=note)
    for key in ("train_on_prompt", "mask_history"):
        if not result.is_on(key):
            result.ignore(key, "is off")


def _take_packing(result: Translation) -> None:
    packs = result.is_on("packing")
    if result.stage == "pt":
        result.ignore("packing", "text is divided into blocks of max_length tokens")
        result.ignore("neat_packing", "text is divided into blocks of max_length tokens")
        if "packing" in result.values and not packs:
            result.warn(
                "without packing each text is a row there; here rows are blocks of all texts"
            )
        return
    if result.is_on("neat_packing"):
        result.take("neat_packing", "packing=true")
        result.ignore("packing", "neat_packing goes before it")
        return
    result.ignore("neat_packing", "is off")
    if packs:
        result.take("packing", "packing=true")
        result.warn(
            "packing without neat_packing lets examples see each other there, and never here"
        )
    else:
        result.ignore("packing", "is off")


def _take_validation(result: Translation, prefixes: list[str], judging: list[str]) -> None:
    size = result.number("val_size", 0)
    if size < 0:
        result.refuse("val_size", "must be at least 0")
    elif size and judging:
        result.refuse("val_size", "must be left out beside eval_dataset, as there")
    elif size >= 1 and len(prefixes) > 1:
        result.refuse(
            "val_size", "must be a share where there are several sets: each gives its own"
        )
    elif size >= 1:
        rows = result.whole("val_size", 0)
        words = [f"data.validation_rows={rows}", "data.splits.validation=null"]
        result.take("val_size", *words, note=TAKEN_OUT)
    elif size > 0:
        share = f"validation_share={write_number(size)}"
        words = _for_each(prefixes, share, "splits.validation=null")
        result.take("val_size", *words, note=TAKEN_OUT)
    else:
        words = _for_each(prefixes, "validation_share=0", "splits.validation=null")
        note = "eval_dataset judges" if judging else "nothing but the training loss judges the run"
        result.take("val_size", *words, note=note)
