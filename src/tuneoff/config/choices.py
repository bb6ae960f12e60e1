"""Choices: the settings that are one of a few words."""

from enum import Enum


class Scheduler(Enum):
    """Learning-rate schedules, as functions of progress."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    constant_with_warmup = "constant"  # the same: each has the warm-up that warmup_ratio says
    cosine_with_restarts = "cosine_with_restarts"
    polynomial = "polynomial"
    inverse_sqrt = "inverse_sqrt"
    wsd = "wsd"


class Dtype(Enum):
    """Types of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class MixedPrecision(Enum):
    """Autocast types. The value of `no` is 0 because YAML reads a bare no as false.

    `auto` is one of the others by the time a run begins: what it becomes depends on the device.
    """

    auto = "auto"
    no = 0
    bf16 = "bf16"
    fp16 = "fp16"


class Optimizer(Enum):
    """Optimizers of PyTorch (fused AdamW, Muon), bitsandbytes (8-bit), transformers (Adafactor), pytorch-optimizer."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    adafactor = "adafactor"
    muon = "muon"
    lion = "lion"
    soap = "soap"
    came = "came"
    ademamix = "ademamix"
    stableadamw = "stableadamw"
    schedulefree = "schedulefree"
    adam_mini = "adam_mini"


# Those of pytorch-optimizer, with the names of their classes.
PACKAGED = {
    Optimizer.lion: "Lion",
    Optimizer.soap: "SOAP",
    Optimizer.came: "CAME",
    Optimizer.ademamix: "AdEMAMix",
    Optimizer.stableadamw: "StableAdamW",
    Optimizer.schedulefree: "ScheduleFreeAdamW",
    Optimizer.adam_mini: "AdamMini",
}
# Those that a method can take which builds on an optimizer of its own package.
BASIC = (Optimizer.adamw, Optimizer.adamw_8bit, Optimizer.adafactor)


class Tracker(Enum):
    """Experiment trackers, through accelerate."""

    wandb = "wandb"
    tensorboard = "tensorboard"
    trackio = "trackio"
    none = "none"


class Task(Enum):
    """What a run does: train, or only say what memory that would take."""

    train = "train"
    predict = "predict"


class WandbMode(Enum):
    """Where W&B sends a run: nowhere until `wandb sync` (offline), or at once."""

    offline = "offline"
    online = "online"
