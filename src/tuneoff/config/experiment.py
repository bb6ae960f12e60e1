"""The experiment: every setting that is not a method's own, checked together."""

import copy
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec

from tuneoff.config.benchmarks import BenchmarkSettings, check_benchmarks
from tuneoff.config.choices import PACKAGED, Dtype, MixedPrecision, Optimizer, Scheduler, Task
from tuneoff.config.compiler import check_compile
from tuneoff.config.hub_push import check_push
from tuneoff.config.keeping import KeepingSettings, check_keeping
from tuneoff.config.options import ConfigError, Role, check_package, check_ranges, find_settings
from tuneoff.config.paths import expand_user, is_hub_name, is_shipped
from tuneoff.config.settings import (
    BudgetSettings,
    EvaluationSettings,
    LimitSettings,
    PrecisionSettings,
    RunSettings,
    SourceSettings,
    SweepSettings,
    TrackingSettings,
    TrainingSettings,
)
from tuneoff.config.sharding import check_sharding
from tuneoff.distributed.launch import get_sharding, get_world_size
from tuneoff.distributed.visible import visible_devices
from tuneoff.measure.cards import CPU
from tuneoff.record import holds_run


@dataclass
class Experiment(
    LimitSettings,
    SweepSettings,
    TrackingSettings,
    KeepingSettings,
    BenchmarkSettings,
    EvaluationSettings,
    PrecisionSettings,
    BudgetSettings,
    TrainingSettings,
    SourceSettings,
    RunSettings,
):
    """Every setting that is not a method's own. A dataclass has its last base's fields first, so `method` leads."""

    def __post_init__(self) -> None:
        self.model.check()
        self.data.check()
        if self.forgetting.data is not None:
            self.forgetting.data.check("forgetting.data.")
        check_ranges(self)
        self._check_weights_to_train()
        self._check_budget()
        self._settle_precision()
        self._check_what_belongs_together()
        self._check_quantisation()
        self._check_optimizer()
        self._check_decay()
        self._check_attention()
        self._check_processes()
        check_sharding(self)
        check_compile(self)
        check_keeping(self)
        check_benchmarks(self)
        self._check_export_and_resume()

    def _check_weights_to_train(self) -> None:
        """Refuse to train a model that is a shape without weights, unless random ones are asked for."""
        has_weights = self.model.path is not None or not self.model.pretrained
        if self.task is Task.train and not has_weights:
            allowed = (
                "must be a folder or a hub name with weights; model.pretrained=false "
                "draws random ones"
            )
            raise ConfigError("model.path", None, allowed)

    def _check_budget(self) -> None:
        """Refuse two budgets."""
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if len(given) > 1:
            allowed = f"one budget a run, and {given[0]} is already given"
            raise ConfigError(given[1], getattr(self, given[1]), allowed)
        if self.warmup_steps and self.max_seconds is not None:
            allowed = "must be null where max_seconds is the budget; warmup_ratio is a share of it"
            raise ConfigError("warmup_steps", self.warmup_steps, allowed)

    def _settle_precision(self) -> None:
        """Refuse types that contradict each other; set `dtype` where it is left out."""
        if self.mixed_precision is MixedPrecision.auto and self._has_two_types():
            self.mixed_precision = MixedPrecision.bf16
        if self.mixed_precision is MixedPrecision.auto and not self._may_autocast():
            self.mixed_precision = MixedPrecision.no
        mixed = self.mixed_precision
        if self.pure_bf16 and mixed is not MixedPrecision.no:
            raise ConfigError("mixed_precision", mixed, "must be no where pure_bf16=true")
        if self.pure_bf16 and self.dtype is Dtype.float32:
            allowed = "must be bfloat16 (or left out) where pure_bf16=true"
            raise ConfigError("dtype", self.dtype, allowed)
        if self.dtype is None:
            self.dtype = Dtype.bfloat16 if self.pure_bf16 else Dtype.float32
        if self.dtype is Dtype.bfloat16 and mixed is MixedPrecision.fp16:
            raise ConfigError("mixed_precision", mixed, "must be no or bf16 where dtype=bfloat16")
        self._check_trainable_dtype()

    def _has_two_types(self) -> bool:
        """Whether frozen weights are in bfloat16 and those that train in float32."""
        return self.dtype is Dtype.bfloat16 and self.trainable_dtype is Dtype.float32

    def _check_trainable_dtype(self) -> None:
        """Refuse a type of what trains that is narrower than the frozen weights', or that nothing could multiply."""
        if self.trainable_dtype in (None, self.dtype):
            return
        key = "trainable_dtype"
        value = self.trainable_dtype
        if self.pure_bf16:
            raise ConfigError(key, value, "must be null where pure_bf16=true")
        if not self._has_two_types():
            raise ConfigError(key, value, "must be float32 or null where dtype=float32")
        if self.mixed_precision is not MixedPrecision.bf16:
            allowed = "must be bf16 where trainable_dtype=float32 and dtype=bfloat16"
            raise ConfigError("mixed_precision", self.mixed_precision, allowed)

    def _may_autocast(self) -> bool:
        """Whether mixed_precision=auto may become bf16: float32 weights of a model that does not ship, on a GPU.

        Asks no GPU; `settle_precision` learns whether it has bfloat16.
        """
        if self.pure_bf16 or self.dtype is Dtype.bfloat16:
            return False
        if self.model.path is not None and is_shipped(self.model.path):
            return False
        if self.task is Task.predict and self.device is not None:
            return self.device != CPU
        return bool(visible_devices())

    def settle_precision(self, has_bfloat16: bool) -> "Experiment":
        """Return these settings with what mixed_precision=auto becomes on a device."""
        settled = copy.copy(self)
        if self.mixed_precision is MixedPrecision.auto:
            settled.mixed_precision = MixedPrecision.bf16 if has_bfloat16 else MixedPrecision.no
        return settled

    def _check_what_belongs_together(self) -> None:
        """Refuse two ways to fill a row at once, and an order that is not drawn."""
        if self.group_by_length and not self.shuffle:
            allowed = "must be true where group_by_length=true, which draws the order of steps"
            raise ConfigError("shuffle", False, allowed)
        if self.packing and self.group_by_length:
            allowed = "must be false where packing=true, whose rows are alike long"
            raise ConfigError("group_by_length", True, allowed)

    def _check_quantisation(self) -> None:
        """Refuse quantisation, of weights or optimizer state, where it cannot be, or nothing is known of it."""
        if self.quantization is not None:
            key = "quantization"
            value = self.quantization
            if not self.model.pretrained:
                allowed = "needs pretrained weights, and model.pretrained=false draws random ones"
                raise ConfigError(key, value, allowed)
            if self.model.gguf_file is not None:
                allowed = (
                    "must be null where model.gguf_file is given, whose weights are dequantised"
                )
                raise ConfigError(key, value, allowed)
            if self.model.quantised:
                allowed = (
                    f"must be null, since the weights in {self.model.path} are quantised already"
                )
                raise ConfigError(key, value, allowed)
            check_package(key, value, "bitsandbytes", "bitsandbytes")
        if self.optimizer in (Optimizer.adamw_8bit, Optimizer.paged_adamw_8bit):
            check_package("optimizer", self.optimizer, "bitsandbytes", "bitsandbytes")
        predicts = self.task is Task.predict or self.skip_if_over_gib is not None
        if predicts and self.quantised:
            raise ConfigError(*self.quantised, "a prediction does not cover quantised weights")

    def _check_optimizer(self) -> None:
        """Refuse an optimizer whose package is not installed, and a schedule beside one that needs none."""
        if self.optimizer in PACKAGED:
            check_package("optimizer", self.optimizer, "pytorch_optimizer", "optimizers")
        if self.optimizer is Optimizer.schedulefree and self.scheduler is not Scheduler.constant:
            allowed = "must be constant where optimizer=schedulefree, which takes the place of one"
            raise ConfigError("scheduler", self.scheduler, allowed)

    def _check_decay(self) -> None:
        """Refuse a decay that would begin before the warm-up has ended."""
        if self.scheduler is not Scheduler.wsd or self.warmup_steps is not None:
            return
        longest = 1 - self.warmup_ratio
        if self.decay_ratio > longest + 1e-9:
            allowed = f"must be at most 1 - warmup_ratio = {longest:g}"
            raise ConfigError("decay_ratio", self.decay_ratio, allowed)

    def _check_attention(self) -> None:
        """Refuse flash attention that is not installed, or in a precision that it does not have."""
        if self.model.attention != "flash_attention_2" or self.task is not Task.train:
            return
        if self.dtype is Dtype.float32 and self.mixed_precision is MixedPrecision.no:
            allowed = "has no float32; mixed_precision=bf16, or pure_bf16=true, goes with it"
            raise ConfigError("model.attention", self.model.attention, allowed)
        if not find_spec("flash_attn") and not find_spec("kernels"):
            allowed = "needs the package flash-attn (or kernels)"
            raise ConfigError("model.attention", self.model.attention, allowed)

    def _check_processes(self) -> None:
        """Refuse settings that say something else than the launcher of several processes."""
        launched = get_world_size()
        if launched == 1:
            return
        if self.num_processes != launched:
            allowed = f"must be {launched}, as many as were launched"
            raise ConfigError("num_processes", self.num_processes, allowed)
        if self.task is Task.predict:
            raise ConfigError(
                "task", self.task, f"needs no launcher; num_processes={launched} says it"
            )

    def _check_export_and_resume(self) -> None:
        """Refuse an export of what is not saved, and a run to go on with that is not there."""
        if self.export_merged and not self.save_model:
            raise ConfigError("export_merged", True, "needs save_model=true")
        if self.push is not None:
            check_push(self.push, self.save_model)
        if self.hub_name is not None and not is_hub_name(self.hub_name):
            raise ConfigError("hub_name", self.hub_name, "must be a hub name owner/name")
        names_run = self.resume in ("never", "auto") or holds_run(expand_user(self.resume))
        if not names_run:
            raise ConfigError("resume", self.resume, "must be never, auto, or the folder of a run")

    @property
    def quantised(self) -> tuple[str, str] | None:
        """The setting that makes the base weights quantised, as (key, value), if one does."""
        if self.quantization is not None:
            return "quantization", self.quantization
        return ("model.path", str(self.model.path)) if self.model.quantised else None

    @property
    def sharding(self) -> str:
        """What splits the model over the ranks: none, ddp (each holds it whole), fsdp2, zero2 or zero3."""
        launched = get_sharding()
        return "ddp" if launched == "none" and self.num_processes > 1 else launched

    @property
    def compute_dtype(self) -> str:
        """The type in which matrices are multiplied: autocast's, or that of the weights."""
        assert self.dtype  # null is resolved when an experiment is made
        autocast = {MixedPrecision.bf16: "bfloat16", MixedPrecision.fp16: "float16"}
        return autocast.get(self.mixed_precision, self.dtype.name)

    @property
    def budget(self) -> tuple[str, float]:
        """The one budget of this run: its kind (epochs, max_steps, max_tokens, max_seconds) and its value.

        Where none is given it is the data's own.
        """
        for key in BUDGETS:
            if getattr(self, key) is not None:
                return key, getattr(self, key)
        if self.data.default_steps is not None:
            return "max_steps", self.data.default_steps
        return "epochs", self.data.default_epochs


BUDGETS = find_settings(Experiment, Role.BUDGET)


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose (modules, order, dropout, blocks), so that no draw disturbs another."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:7])
