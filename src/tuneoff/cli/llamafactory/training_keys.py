"""Rate, budget, precision, optimizer and launcher, where several keys of LLaMA-Factory's together decide."""

import json
from typing import Any

from tuneoff.cli.llamafactory.keys import OFF
from tuneoff.cli.llamafactory.kinds import read_number, read_share, read_whole, write_number
from tuneoff.cli.llamafactory.launchers import find_launcher_file
from tuneoff.cli.llamafactory.translation import Translation

# LLaMA-Factory's, of what a file does not say; each taken as the key would be.
UNSAID: dict[str, Any] = {
    "learning_rate": 5e-5,
    "cutoff_len": 2048,
    "per_device_train_batch_size": 8,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "seed": 42,
    "disable_gradient_checkpointing": False,
}
SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "inverse_sqrt": "inverse_sqrt",
    "warmup_stable_decay": "wsd",
}
OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "paged_adamw_32bit": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "lion_32bit": "lion",
    "schedule_free_adamw": "schedulefree",
}
# Optimizers with a switch of their own there, and what to know of ours.
SWITCHED_OPTIMIZERS = {
    "use_muon": ("muon", "torch's; there it is a copy"),
    "use_adam_mini": ("adam_mini", "pytorch-optimizer's; there the authors' package"),
}
LOWEST_POLYNOMIAL = 1e-7  # the rate at which transformers' polynomial ends


def take_budget(result: Translation) -> None:
    """Steps where there are any, else epochs."""
    steps = result.whole("max_steps", -1)
    if steps > 0:
        result.take("max_steps", f"max_steps={steps}")
        result.ignore("num_train_epochs", "max_steps goes before it")
        return
    result.ignore("max_steps", "is off")
    epochs = result.number("num_train_epochs", 3.0, above=0)
    result.take("num_train_epochs", f"epochs={write_number(epochs)}")


def take_schedule(result: Translation) -> None:
    """The schedule with its warm-up and its options."""
    name = str(result.get("lr_scheduler_type", "linear"))
    if name not in SCHEDULERS:
        result.refuse("lr_scheduler_type", f"there are {', '.join(SCHEDULERS)}")
        return
    note = "takes the rate at the middle of each step, there at its beginning"
    result.take("lr_scheduler_type", f"scheduler={SCHEDULERS[name]}", note=note)
    warmup = _take_warmup(result, name)
    options = _read_options(result)
    if options is None:
        return
    rate = result.number("learning_rate", 5e-5, above=0)
    if name == "polynomial":
        options = {"lr_end": LOWEST_POLYNOMIAL, **options}
    try:
        words = [_translate_option(name, rate, *option) for option in options.items()]
    except ValueError as error:
        result.refuse("lr_scheduler_kwargs", str(error))
        return
    if name == "warmup_stable_decay" and warmup < 1:
        # What follows the warm-up stays for a third and falls for two.
        words.append(f"decay_ratio={2 / 3 * (1 - warmup):.6g}")
    if words:
        result.take("lr_scheduler_kwargs", *words)
    else:
        result.ignore("lr_scheduler_kwargs", "is empty")


def _translate_option(
    scheduler: str,
    rate: float,
    key: str,
    value: float,
) -> str:
    """Return a schedule's option as a word of ours.

    Raises:
        ValueError: no schedule here has it, or not with this value.
    """
    if key in ("min_lr", "lr_end"):
        if not 0 <= value < rate:
            raise ValueError(f"must have {key} in [0, learning_rate), and has {value:g}")
        return f"min_lr_ratio={value / rate:.12g}"
    if key in ("min_lr_rate", "min_lr_ratio"):
        return f"min_lr_ratio={write_number(read_share(value))}"
    if key == "power":
        return f"scheduler_power={write_number(read_number(value, above=0))}"
    if key == "num_cycles" and scheduler == "cosine_with_restarts":
        return f"scheduler_cycles={read_whole(value, lowest=1)}"
    raise ValueError(f"has {key}, which no schedule here has")


def _read_options(result: Translation) -> dict[str, float] | None:
    """Return the schedule's own options as numbers; what cannot be read is refused, and None."""
    written = result.get("lr_scheduler_kwargs", {})
    try:
        options = json.loads(written) if isinstance(written, str) else written
        return {str(key): read_number(value) for key, value in options.items()}
    except (ValueError, AttributeError):
        result.refuse("lr_scheduler_kwargs", "must be numbers by name")
        return None


def _take_warmup(result: Translation, scheduler: str) -> float:
    """Take the warm-up; returns its share, 0 where the steps of which it is one are not known."""
    steps = result.number("warmup_steps", 0)
    ratio = result.share("warmup_ratio")
    if scheduler == "constant":
        result.words["warmup_ratio"] = "0"
        for key in ("warmup_steps", "warmup_ratio"):
            result.ignore(key, "constant has none; constant_with_warmup has")
        return 0.0
    if steps >= 1:
        return _take_warmup_steps(result, scheduler)
    if steps < 0:
        result.refuse("warmup_steps", "must be at least 0")
    result.ignore("warmup_steps", "is off" if not steps else "is a share")
    share = steps or ratio
    result.take("warmup_ratio", f"warmup_ratio={write_number(share)}")
    return share


def _take_warmup_steps(result: Translation, scheduler: str) -> float:
    """Take a warm-up that is counted in steps; returns its share as above."""
    steps = result.whole("warmup_steps", 0)
    total = result.whole("max_steps", -1)
    result.ignore("warmup_ratio", "warmup_steps goes before it")
    if total <= 0 and scheduler == "warmup_stable_decay":
        needed = "needs max_steps under warmup_stable_decay: what falls is a share of what follows"
        result.refuse("warmup_steps", needed)
        return 0.0
    result.take("warmup_steps", f"warmup_steps={steps}")
    return steps / total if total > 0 else 0.0


def take_precision(result: Translation, options: Any) -> None:
    """The types of weights and of what is computed."""
    if result.is_on("pure_bf16"):
        result.take("pure_bf16", "pure_bf16=true")
        for key in ("bf16", "fp16"):
            result.ignore(key, "pure_bf16 goes before it")
        return
    result.ignore("pure_bf16", "is off")
    kind = "bf16" if result.is_on("bf16") else "fp16" if result.is_on("fp16") else None
    for key in ("bf16", "fp16"):
        if key != kind:
            result.ignore(key, "is off")
    if kind is None:
        result.words["dtype"] = "float32"
        result.warn(
            "without bf16, fp16 or pure_bf16, LLaMA-Factory holds what is frozen in the checkpoint's type "
            "on a GPU; here it is float32, and dtype= says otherwise"
        )
        return
    words = [f"mixed_precision={kind}", "dtype=float32"]
    note = "all weights are float32"
    is_split = any(result.get(key) not in OFF for key in ("deepspeed", "fsdp"))
    if kind == "bf16" and options is not None and not is_split:
        if options.foreign_dtype:
            words[1] = f"dtype={options.foreign_dtype}"
            note = f"all weights are {options.foreign_dtype}"
        elif options.keeps_base or options.freezes:
            words[1:] = ["dtype=bfloat16", "trainable_dtype=float32"]
            note = "what is frozen is bfloat16, and there in the type of its file"
    result.take(kind, *words, note=note)


def take_quantization(result: Translation) -> None:
    """Bitsandbytes' 4 and 8 bits."""
    bits = result.get("quantization_bit")
    details = {
        "quantization_method": ("bnb", "bitsandbytes is what quantises here"),
        "quantization_type": ("nf4", "4 bits are nf4 here"),
        "double_quantization": (True, "4 bits are quantised twice here"),
    }
    if bits is None:
        for key in ("quantization_bit", *details):
            result.ignore(key, "nothing is quantised")
        return
    if bits not in (4, 8):
        result.refuse("quantization_bit", "needs another quantisation than 4bit and 8bit")
        return
    result.take("quantization_bit", f"quantization={int(bits)}bit")
    for key, (ours, needed) in details.items():
        if result.get(key, ours) != ours:
            result.refuse(key, f"{needed}, and no other way")
        else:
            result.ignore(key, needed)


def take_optimizer(result: Translation) -> None:
    """AdamW and others; some have a switch of their own."""
    name = str(result.get("optim", "adamw_torch"))
    chosen = None
    for key, (optimizer, note) in SWITCHED_OPTIMIZERS.items():
        if not result.is_on(key):
            result.ignore(key, "is off")
        elif chosen is None:
            chosen = key
            result.take(key, f"optimizer={optimizer}", note=note)
        else:
            result.ignore(key, f"{chosen} goes before it")
    if chosen is not None:
        result.ignore("optim", f"{chosen} goes before it")
        return
    if name not in OPTIMIZERS:
        result.refuse("optim", f"there are {', '.join(OPTIMIZERS)}")
        return
    result.take("optim", f"optimizer={OPTIMIZERS[name]}")


def take_launcher(result: Translation) -> None:
    """DeepSpeed and FSDP are the launcher's, whose file is named."""
    for key in ("deepspeed", "fsdp"):
        value = result.get(key)
        file = find_launcher_file(key, value)
        if not value or value in OFF:
            result.ignore(key, "is off")
        elif file is None:
            result.refuse(key, "has no stage of ZeRO that is known here: 0, 1, 2 or 3")
        else:
            result.launcher = file
            result.take(key, note=f"accelerate launch --config_file {file} train.py …")
            if "offload" in str(value):
                result.warn(f"{key}: offload to the host is not in {file}: put it in there")
