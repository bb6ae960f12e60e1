"""The settings that every method shares, typed and range-checked: the data, and the experiment."""

import hashlib
import os
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tuneoff.config.data import Data
from tuneoff.config.extractors import EXTRACTORS, is_extractor
from tuneoff.config.model import Model
from tuneoff.config.options import (
    ConfigError,
    Role,
    above,
    at_least,
    check_package,
    check_ranges,
    find_settings,
    names,
    one_of,
    option,
    setting,
)
from tuneoff.distributed.launch import get_world_size
from tuneoff.record import RUN


class Scheduler(Enum):
    """Learning-rate schedules, as functions of progress."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class Dtype(Enum):
    """Types of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class MixedPrecision(Enum):
    """Autocast types. The value of `no` is 0 because YAML reads a bare no as false."""

    no = 0
    bf16 = "bf16"
    fp16 = "fp16"


class Optimizer(Enum):
    """Optimizer families: PyTorch's fused AdamW, bitsandbytes' 8-bit AdamW, Adafactor."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    adafactor = "adafactor"


class Tracker(Enum):
    """Experiment trackers, through accelerate."""

    wandb = "wandb"
    tensorboard = "tensorboard"
    none = "none"


class Task(Enum):
    """What a run does: train, or only say what memory that would take."""

    train = "train"
    predict = "predict"


class WandbMode(Enum):
    """Where W&B sends a run: nowhere until `wandb sync` (offline), or at once."""

    offline = "offline"
    online = "online"


@dataclass
class Forgetting:
    """A second set whose loss, before training and after, says what was lost elsewhere; null: none is measured."""

    data: Data | None = None


INCIDENTAL = Role.INCIDENTAL
BUDGET = Role.BUDGET | Role.JUDGING | Role.NOT_PREDICTED
JUDGING = Role.JUDGING
NOT_PREDICTED = Role.NOT_PREDICTED


@dataclass
class Experiment:
    """Every setting that is not a method's own. METHODS' shared keys, plus where results go."""

    method: str = setting(MISSING, JUDGING)
    task: Task = setting(Task.train, INCIDENTAL | NOT_PREDICTED)
    model: Model = setting(Model, JUDGING)
    data: Data = setting(Data, JUDGING)
    forgetting: Forgetting = field(default_factory=Forgetting)

    lr: float = above(1e-4, 0, NOT_PREDICTED)
    weight_decay: float = at_least(0.0, 0)
    scheduler: Scheduler = Scheduler.cosine
    warmup_ratio: float = option(0.03, "must be in [0, 1)", lambda value: 0 <= value < 1)
    batch_size: int = at_least(8, 1)
    eval_batch_size: int | None = at_least(None, 1, JUDGING)
    gradient_accumulation_steps: int = at_least(1, 1)
    # Ranks that share a step; each has batch_size rows a micro-step.
    num_processes: int = at_least(get_world_size(), 1)
    max_length: int = at_least(256, 2, JUDGING)
    # Rows of like length in one step.
    group_by_length: bool = False
    # Whole examples side by side in rows of max_length; batch_size counts rows.
    packing: bool = False
    epochs: float | None = above(None, 0, BUDGET)
    max_steps: int | None = at_least(None, 1, BUDGET)
    max_tokens: int | None = at_least(None, 1, BUDGET)
    max_seconds: float | None = above(None, 0, BUDGET)
    # The budget where none of the four above is given.
    default_steps: int = at_least(100, 1, JUDGING | NOT_PREDICTED)
    max_grad_norm: float | None = above(None, 0, column="Gradient clip")
    eval_every: int | None = at_least(None, 1, JUDGING)
    # Evaluate the test split, once, at the end.
    test: bool = setting(False, JUDGING | NOT_PREDICTED)
    exact_match: str | None = option(
        None,
        f"must be {', '.join(EXTRACTORS)}, or a regular expression with one group, "
        "around the answer",
        is_extractor,
    )
    # Rows to generate answers for; null: the whole split.
    exact_match_limit: int | None = at_least(None, 1)
    # An answer's length at most.
    max_new_tokens: int = at_least(256, 1)
    save_every: int | None = at_least(None, 1, INCIDENTAL)
    keep_checkpoints: int = at_least(2, 1, INCIDENTAL)
    # A prediction finds the largest batch_size that fits in so much.
    gib: float | None = above(None, 0, INCIDENTAL)
    # Predict first, and do not start what would not fit.
    skip_if_over_gib: float | None = above(None, 0, INCIDENTAL)
    seed: int = option(0, "must be in [0, 2^32)", lambda value: 0 <= value < 2**32, JUDGING)
    # null: float32, or bfloat16 under pure_bf16.
    dtype: Dtype | None = None
    mixed_precision: MixedPrecision = MixedPrecision.no
    pure_bf16: bool = False
    # Of the base weights, by bitsandbytes; 4bit is NF4.
    quantization: str | None = one_of(None, "4bit", "8bit", column="Quantisation")
    gradient_checkpointing: bool = False
    optimizer: Optimizer = Optimizer.adamw
    tracker: Tracker = setting(Tracker.wandb, INCIDENTAL)
    wandb_mode: WandbMode = setting(WandbMode.offline, INCIDENTAL)
    wandb_project: str = setting("tuneoff", INCIDENTAL)
    tags: Any = names(role=INCIDENTAL)
    resume: str = setting("never", INCIDENTAL)
    rerun: bool = setting(False, INCIDENTAL)
    # A sweep's folder: each method takes its best settings from there.
    tuned: str | None = setting(None, INCIDENTAL)
    # A sweep ends with its first failed job.
    fail_fast: bool = setting(False, INCIDENTAL)
    # Limits of a sweep's job.
    job_memory_gib: float | None = above(None, 0, INCIDENTAL)
    job_timeout_seconds: float | None = above(None, 0, INCIDENTAL)
    job_stall_seconds: float | None = above(None, 0, INCIDENTAL)
    save_model: bool = setting(False, JUDGING)
    export_merged: bool = setting(False, JUDGING)
    progress: bool = setting(True, INCIDENTAL)

    def __post_init__(self) -> None:
        self.model.check()
        self.data.check()
        if self.forgetting.data is not None:
            self.forgetting.data.check("forgetting.data.")
        check_ranges(self)
        if self.task is Task.train and self.model.pretrained and self.model.path is None:
            raise ConfigError(
                "model.path",
                None,
                "must be a folder or a hub name with weights; model.pretrained=false "
                "draws random ones",
            )
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if len(given) > 1:
            raise ConfigError(
                given[1],
                getattr(self, given[1]),
                f"one budget a run, and {given[0]} is already given",
            )
        if self.pure_bf16 and self.mixed_precision is not MixedPrecision.no:
            raise ConfigError(
                "mixed_precision", self.mixed_precision, "must be no where pure_bf16=true"
            )
        if self.pure_bf16 and self.dtype is Dtype.float32:
            raise ConfigError(
                "dtype", self.dtype, "must be bfloat16 (or left out) where pure_bf16=true"
            )
        if self.dtype is None:
            self.dtype = Dtype.bfloat16 if self.pure_bf16 else Dtype.float32
        if self.dtype is Dtype.bfloat16 and self.mixed_precision is MixedPrecision.fp16:
            raise ConfigError(
                "mixed_precision", self.mixed_precision, "must be no or bf16 where dtype=bfloat16"
            )
        if self.exact_match_limit is not None and self.exact_match is None:
            raise ConfigError("exact_match_limit", self.exact_match_limit, "needs exact_match")
        if self.packing and self.group_by_length:
            raise ConfigError(
                "group_by_length",
                True,
                "must be false where packing=true, whose rows are alike long",
            )
        self._check_kernels()
        self._check_processes()
        if self.export_merged and not self.save_model:
            raise ConfigError("export_merged", True, "needs save_model=true")
        if self.resume not in ("never", "auto") and not (Path(self.resume) / RUN).is_file():
            raise ConfigError("resume", self.resume, "must be never, auto, or the folder of a run")

    def _check_kernels(self) -> None:
        """Refuse quantisation where it cannot be, and flash attention that is not installed."""
        model, by = self.model, self.quantised
        if self.quantization is not None:
            given = "quantization", self.quantization
            if not model.pretrained:
                raise ConfigError(
                    *given, "needs pretrained weights, and model.pretrained=false draws random ones"
                )
            if model.gguf_file is not None:
                raise ConfigError(
                    *given,
                    "must be null where model.gguf_file is given, whose weights are dequantised",
                )
            if model.quantised:
                raise ConfigError(
                    *given, f"must be null, since the weights in {model.path} are quantised already"
                )
            check_package(*given, "bitsandbytes", "bitsandbytes")
        if by and (self.task is Task.predict or self.skip_if_over_gib is not None):
            raise ConfigError(*by, "a prediction does not cover quantised weights")
        flash = model.attention == "flash_attention_2" and self.task is Task.train
        if flash and not (find_spec("flash_attn") or find_spec("kernels")):
            raise ConfigError(
                "model.attention", model.attention, "needs the package flash-attn (or kernels)"
            )

    def _check_processes(self) -> None:
        """Refuse what several processes, or a model that is split over them, cannot do."""
        if get_world_size() > 1 and self.num_processes != get_world_size():
            raise ConfigError(
                "num_processes",
                self.num_processes,
                f"must be {get_world_size()}, as many as were launched",
            )
        if get_world_size() > 1 and self.task is Task.predict:
            raise ConfigError(
                "task", self.task, f"needs no launcher; num_processes={get_world_size()} says it"
            )
        if self.sharding == "FSDP" and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise ConfigError(
                "FSDP_VERSION", version, "must be 2, as conf/accelerate/fsdp2.yaml has it"
            )
        if self.sharding and self.exact_match is not None:
            raise ConfigError(
                "exact_match",
                self.exact_match,
                f"must be null under {self.sharding}, where no process "
                "has the model that would answer; lm-eval can ask the saved one",
            )
        if self.sharding and self.quantised:
            raise ConfigError(
                *self.quantised, f"was never tried under {self.sharding}; DDP takes it"
            )
        if self.sharding == "DeepSpeed" and self.save_every:
            raise ConfigError(
                "save_every",
                self.save_every,
                "must be null under DeepSpeed, whose split state has a format of its own",
            )

    @property
    def quantised(self) -> tuple[str, str] | None:
        """The setting that makes the base weights quantised, as (key, value), if one does."""
        if self.quantization is not None:
            return "quantization", self.quantization
        return ("model.path", str(self.model.path)) if self.model.quantised else None

    @property
    def sharding(self) -> str | None:
        """DeepSpeed or FSDP where `accelerate launch` was told to use it; either splits the weights over the ranks."""
        asked = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}
        return next(
            (
                name
                for key, name in asked.items()
                if os.environ.get(key, "").lower() in ("1", "true")
            ),
            None,
        )

    @property
    def budget(self) -> tuple[str, float]:
        """The one budget of this run: its kind (epochs, max_steps, max_tokens, max_seconds) and its value."""
        for key in BUDGETS:
            if getattr(self, key) is not None:
                return key, getattr(self, key)
        return "max_steps", self.default_steps


BUDGETS = find_settings(Experiment, Role.BUDGET)


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose (modules, order, dropout, blocks), so that no draw disturbs another."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7])
