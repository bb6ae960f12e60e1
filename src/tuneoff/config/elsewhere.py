"""Elsewhere: what LLaMA-Factory, transformers, TRL, PEFT and axolotl call our settings, with their values as ours."""

from collections.abc import Callable

from tuneoff.config.registered import (
    find_alias,
    find_choice,
    find_foreign_defaults,
    find_foreign_options,
    list_method_words,
)
from tuneoff.config.templates import NAMED_TEMPLATES

Convert = Callable[[str], list[str]]  # of a value as it was typed: the words that say it here


def rename(ours: str) -> Convert:
    """The same value under another name."""
    return lambda value: [f"{ours}={value}"]


def choose(ours: str, **values: str) -> Convert:
    """A value among a few that are called otherwise here; others stay, and are refused if they are none of ours."""
    return lambda value: [f"{ours}={values.get(value.lower(), value)}"]


def switch(*words: str) -> Convert:
    """Words that stand for `true`; `false` needs none."""
    return lambda value: list(words) if value.lower() in ("true", "1", "yes", "auto") else []


def as_list(ours: str) -> Convert:
    """Names: a bare comma sweeps here."""

    def convert(value: str) -> list[str]:
        names = {"all-linear": "all"}.get(value, value).strip("[]'\" ")
        return [f"{ours}=[{names}]" if "," in names else f"{ours}={names}"]

    return convert


def as_share(value: str) -> list[str]:
    """A share of the training rows, or their number."""
    try:
        is_share = float(value) < 1
    except ValueError:
        is_share = True
    if is_share:
        return [f"data.validation_share={value}"]
    return [f"data.validation_rows={int(float(value))}"]


def as_method(key: str) -> Convert:
    """The method that a word stands for, as methods say themselves; an adapter's name may be the method's own."""

    def convert(value: str) -> list[str]:
        name = value.lower()
        words = find_alias(name)
        if words is not None:
            return words
        choice = find_choice(key, name) or name
        return [f"method={choice}"]

    return convert


def as_template(value: str) -> list[str]:
    """A template that is known by its name, else the tokenizer's own."""
    template = value if value in NAMED_TEMPLATES else "chat"
    return [f"data.template={template}"]


def as_bits(value: str) -> list[str]:
    """`4` and `8` as the quantisation is called here."""
    return [f"quantization={value.removesuffix('bit')}bit"]


def as_data(value: str) -> list[str]:
    """A file or a folder, else the name of a set."""
    if "/" in value or "." in value:
        return ["data=json", f"data.path={value}"]
    return [f"data={value}"]


def as_resume(value: str) -> list[str]:
    """`true` is auto."""
    is_latest = value.lower() in ("true", "latest")
    checkpoint = "auto" if is_latest else value
    return [f"resume={checkpoint}"]


SCHEDULER = choose(
    "scheduler",
    cosine_with_min_lr="cosine",
    constant_with_warmup="constant",
    warmup_stable_decay="wsd",
)
OPTIMIZER = choose(
    "optimizer",
    adamw_torch="adamw",
    adamw_torch_fused="adamw",
    adamw_hf="adamw",
    adamw_bnb_8bit="adamw_8bit",
    paged_adamw_32bit="adamw",
)
ATTENTION = choose(
    "model.attention", fa2="flash_attention_2", disabled="eager", auto="sdpa", true="sdpa"
)
TRACKER = choose("tracker", all="wandb")
# Keys whose value is a method's name, here or elsewhere.
ADAPTERS = ("finetuning_type", "adapter", "peft_type")
ELSEWHERE: dict[str, Convert] = {
    # ---- rate, batch, length, budget
    **dict.fromkeys(("learning_rate", "lr_rate"), rename("lr")),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "epoch"), rename("epochs")),
    **dict.fromkeys(
        ("per_device_train_batch_size", "micro_batch_size", "train_batch_size"),
        rename("batch_size"),
    ),
    "per_device_eval_batch_size": rename("eval_batch_size"),
    **dict.fromkeys(
        ("gradient_accumulation", "grad_accum", "accumulation_steps"),
        rename("gradient_accumulation_steps"),
    ),
    **dict.fromkeys(
        ("cutoff_len", "max_seq_length", "max_seq_len", "sequence_len", "model_max_length"),
        rename("max_length"),
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler"), SCHEDULER),
    "optim": OPTIMIZER,
    **dict.fromkeys(("gradient_clipping", "clip_grad_norm"), rename("max_grad_norm")),
    # ---- precision and memory
    "bf16": switch("mixed_precision=bf16"),
    "fp16": switch("mixed_precision=fp16"),
    **dict.fromkeys(("quantization_bit", "bits"), as_bits),
    "load_in_4bit": switch("quantization=4bit"),
    "load_in_8bit": switch("quantization=8bit"),
    **dict.fromkeys(("torch_dtype",), choose("dtype", bf16="bfloat16", fp32="float32")),
    # ---- model
    **dict.fromkeys(
        ("model_name_or_path", "base_model", "model_name", "model_id"), rename("model.path")
    ),
    **dict.fromkeys(("flash_attn", "attn_implementation"), ATTENTION),
    "flash_attention": switch("model.attention=flash_attention_2"),
    **dict.fromkeys(
        ("enable_liger_kernel", "use_liger", "use_liger_kernel"), rename("model.liger")
    ),
    "torch_compile": rename("compile"),
    "trust_remote_code": rename("model.trust_remote_code"),
    "tokenizer_name": rename("model.tokenizer"),
    # ---- method: what else methods are called, and their options, they say themselves
    **{key: as_method(key) for key in ADAPTERS},
    "lora_target_linear": switch("lora_target=all"),
    # ---- data
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "train_file"), as_data),
    "max_samples": rename("data.limit"),
    **dict.fromkeys(("val_size", "val_set_size"), as_share),
    **dict.fromkeys(("template", "chat_template"), as_template),
    "train_on_prompt": switch("data.train_on=all"),
    "train_on_inputs": switch("data.train_on=all"),
    "mask_history": switch("data.train_on=last_answer"),
    **dict.fromkeys(("neftune_noise_alpha", "noise_alpha"), rename("neftune_alpha")),
    **dict.fromkeys(("neat_packing", "sample_packing"), rename("packing")),
    # ---- run
    "output_dir": rename("hydra.run.dir"),
    "overwrite_output_dir": rename("rerun"),
    "resume_from_checkpoint": as_resume,
    "save_steps": rename("save_every"),
    "eval_steps": rename("eval_every"),
    "save_total_limit": rename("keep_checkpoints"),
    "report_to": TRACKER,
    "wandb_name": rename("tags"),
    "predict_with_generate": switch("exact_match=whole"),
}
# What is assumed of a name where its value does not say it.
ASSUMED = {
    "bf16": "weights stay float32; dtype=bfloat16 takes half the memory",
    "fp16": "weights stay float32",
    "cutoff_len": "what is longer is cut at its end",
    "dataset": "a set's name is that of a YAML in conf/data",
    "quantization_bit": "4bit is NF4, quantised twice",
}
# Names that need nothing here, and why.
NEEDLESS = {
    "do_train": "training is what a run does",
    "do_eval": "a run evaluates before and after training",
    "stage": "the columns of the data say it",
    "logging_steps": "every step is logged",
    "eval_strategy": "eval_every says it",
    "evaluation_strategy": "eval_every says it",
    "save_strategy": "save_every says it",
    "plot_loss": "a report draws it",
    "overwrite_cache": "a changed file is read anew",
    "preprocessing_num_workers": "one process reads",
    "dataloader_num_workers": "one process reads",
    "remove_unused_columns": "columns are found by name",
    "ddp_timeout": "ranks wait as long as they must",
    "run_name": "method, rate and seed name a run",
    "deepspeed": "the launcher says it",
    "fsdp": "the launcher says it",
    "dataset_dir": "data.path= is a file or a folder, and llamafactory=FILE reads dataset_info.json",
}


def list_our_words(key: str, value: str) -> list[str] | None:
    """Return what a word of another program is here, ready to be pasted; None for a name that nobody has.

    Several values, as a sweep has them, are converted one by one.
    """
    if key in NEEDLESS:
        return []
    convert = ELSEWHERE.get(key) or _find_method_word(key)
    if convert is None:
        return None
    values = value.split(",")
    if len(values) == 1 or "[" in value or key in find_foreign_options():
        return convert(value)
    swept: dict[str, list[str]] = {}
    for one in values:
        for word in convert(one):
            ours, _, ours_value = word.partition("=")
            swept.setdefault(ours, []).append(ours_value)
    return [f"{ours}={','.join(dict.fromkeys(parts))}" for ours, parts in swept.items()]


def describe_assumption(key: str, value: str) -> str | None:
    """Say what is assumed of a word of another program; None where it says all."""
    if key in ASSUMED:
        return ASSUMED[key]
    differing = find_foreign_defaults(key, value)
    if not differing:
        return None
    written = ", ".join(f"{option}={default}" for option, default in differing.items())
    return f"{written} there, unless it is given"


def _find_method_word(key: str) -> Convert | None:
    """What a key is that only methods know: one of their options under another name, or a switch that chooses one."""
    option = find_foreign_options().get(key)
    if option is not None:
        return as_list(option)
    if not any(word.key == key for word in list_method_words()):
        return None

    def convert(value: str) -> list[str]:
        is_on = "true" if value.lower() in ("1", "yes", "auto") else value
        choice = find_choice(key, is_on)
        return [f"method={choice}"] if choice else []

    return convert


def find_our_name(key: str) -> str | None:
    """Return the name of our setting for another program's, where it is one of ours under another name."""
    words = list_our_words(key, "true")
    return words[0].partition("=")[0] if words else None
