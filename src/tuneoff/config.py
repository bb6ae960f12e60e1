"""What a run is: typed settings, their ranges, and the one error type that becomes a one-line refusal.

Imports neither torch nor transformers, because `--help`, a refusal and a sweep's parent pass through here.
"""
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from tuneoff.record import INCIDENTAL, RUN


class ConfigError(ValueError):
    """A setting that cannot be used: the key, the value given (if there is one), and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str):
        super().__init__(f"{key}{'' if value is ABSENT else f'={shown(value)}'}: {allowed}")


ABSENT = object()


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


# ---------------------------------------------------------------- declaring an option and its range
def option(default: Any, allowed: str, accepts: Callable[[Any], bool]) -> Any:
    """Return a dataclass field that knows its range; `None` always passes."""
    return field(default=default, metadata={"allowed": allowed, "accepts": accepts})


def at_least(default: float | None, low: float) -> Any:
    """An option in [low, infinity)."""
    return option(default, f"must be at least {low}", lambda value: low <= value < math.inf)


def above(default: float | None, low: float) -> Any:
    """An option in (low, infinity)."""
    return option(default, f"must be above {low}", lambda value: low < value < math.inf)


def one_of(default: str, *names: str) -> Any:
    """An option among a few words that cannot be an enum (because a path may also stand there)."""
    return option(default, f"must be one of {', '.join(names)}", lambda value: value in names)


def names(default: Any = None) -> Any:
    """A list of names: Hydra's list, the word `all`, or a comma-separated string."""
    return field(default=default, metadata={"names": True})


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Normalise name lists and refuse what lies outside a declared range.

    Raises:
        ConfigError: for the first option whose value is not allowed.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.metadata.get("names"):
            if value is None and item.default is not None:
                raise ConfigError(prefix + item.name, None, "must name modules, or be the word all")
            setattr(settings, item.name, as_names(prefix + item.name, value))
        accepts = item.metadata.get("accepts")
        if accepts and value is not None and not accepts(value):
            raise ConfigError(prefix + item.name, value, item.metadata["allowed"])


def as_names(key: str, value: Any) -> list[str] | None:
    """Return a list of names from a list or a comma-separated string; `None` stays.

    Raises:
        ConfigError: if it is neither, or holds an empty or a repeated name.
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part.strip() for part in parts):
        raise ConfigError(key, value, f"must be names, as in {key}=[one,two]")
    parts = [part.strip() for part in parts]
    if not parts or len(set(parts)) < len(parts):
        raise ConfigError(key, value, "must hold at least one name, and none twice")
    if "all" in parts and len(parts) > 1:
        raise ConfigError(key, value, "all stands alone")
    return parts


# ---------------------------------------------------------------- the settings every method shares
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


HERE = Path(__file__).parent


def folder_of(place: str) -> Path:
    """The folder that a path or `tuneoff:NAME` means, there or not."""
    return HERE / place.removeprefix("tuneoff:") if place.startswith("tuneoff:") else Path(place).expanduser()


def shipped(pattern: str) -> list[str]:
    """`tuneoff:NAME` of what ships with the package and fits a pattern of paths."""
    found = [path.parent if path.name == "config.json" else path for path in HERE.glob(pattern)]
    return sorted(f"tuneoff:{path.name.partition('.')[0]}" for path in found)


@dataclass
class Model:
    """What is fine-tuned: a hub name or a folder (`tuneoff:tiny` ships with the package), or without a path a shape.

    `config` is the shape: transformers' model_type and sizes. Where there is a path, the path's own shape counts.
    """
    name: str = MISSING
    path: str | None = None
    config: dict[str, Any] | None = None
    pretrained: bool = True
    tokenizer: str | None = None
    attention: str = one_of("sdpa", "sdpa", "eager", "flash_attention_2", "flex_attention")
    trust_remote_code: bool = False

    def check(self) -> None:
        """Refuse ranges, and a folder that is not there. (OmegaConf builds defaults, so `__post_init__` cannot.)"""
        check_ranges(self, "model.")
        if self.path is None and not (self.config and "model_type" in self.config):
            raise ConfigError("model.path", None, "must be a folder or a hub name, unless model.config gives a shape")
        for key in ("path", "tokenizer"):
            place = getattr(self, key)
            if place is None or place and (folder_of(place) / ("config.json" if key == "path" else "")).exists():
                continue
            if place.startswith("tuneoff:"):
                raise ConfigError(f"model.{key}", place, f"must be {' or '.join(shipped('*/config.json'))}")
            # A hub name is owner/name; anything else has to be a folder.
            if place.startswith((".", "/", "~")) or place.count("/") != 1 or Path(place).is_dir():
                wanted = "folder with a config.json" if key == "path" else "folder"
                raise ConfigError(f"model.{key}", place, f"must be a {wanted}, or a hub name owner/name")
        folder = folder_of(self.path or "")
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        if self.path and self.pretrained and folder.is_dir() and not weights:
            raise ConfigError("model.pretrained", True, f"{self.path} holds no weights; false draws random ones")

    @property
    def quantised(self) -> bool:
        """Whether the weights in a local folder are quantised (a hub name says so only when it is loaded)."""
        try:
            return "quantization_config" in json.loads((folder_of(self.path or "") / "config.json").read_text())
        except (OSError, ValueError):
            return False


@dataclass
class Data:
    """What it is tuned on: rows with `prompt` and `completion`, or with `text`."""
    name: str = MISSING
    path: str = MISSING
    limit: int | None = at_least(None, 1)

    def check(self) -> None:
        """Refuse ranges, and a file that is not there."""
        check_ranges(self, "data.")
        if self.path.startswith("tuneoff:"):
            files = shipped("data/corpus/*.jsonl.xz")
            if self.path not in files:
                raise ConfigError("data.path", self.path, f"must be {' or '.join(files)}")
        elif not Path(self.path).expanduser().is_file():
            raise ConfigError("data.path", self.path, "must be an existing file")


BUDGETS = ("epochs", "max_steps", "max_tokens", "max_seconds")


@dataclass
class Experiment:
    """Every setting that is not a method's own. METHODS' shared keys, plus where results go."""
    method: str = MISSING
    task: Task = Task.train
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)

    lr: float = above(1e-4, 0)
    weight_decay: float = at_least(0.0, 0)
    scheduler: Scheduler = Scheduler.cosine
    warmup_ratio: float = option(0.03, "must be in [0, 1)", lambda value: 0 <= value < 1)
    batch_size: int = at_least(8, 1)
    eval_batch_size: int | None = at_least(None, 1)
    gradient_accumulation_steps: int = at_least(1, 1)
    max_length: int = at_least(256, 2)
    epochs: float | None = above(None, 0)
    max_steps: int | None = at_least(None, 1)
    max_tokens: int | None = at_least(None, 1)
    max_seconds: float | None = above(None, 0)
    default_steps: int = at_least(100, 1)  # the budget where none of the four above is given
    max_grad_norm: float | None = above(None, 0)
    eval_every: int | None = at_least(None, 1)
    test: bool = False  # evaluate the test split, once, at the end
    save_every: int | None = at_least(None, 1)
    keep_checkpoints: int = at_least(2, 1)
    gib: float | None = above(None, 0)  # a prediction finds the largest batch_size that fits in so much
    skip_if_over_gib: float | None = above(None, 0)  # predict first, and do not start what would not fit
    seed: int = option(0, "must be in [0, 2^32)", lambda value: 0 <= value < 2**32)
    dtype: Dtype | None = None  # null: float32, or bfloat16 under pure_bf16
    mixed_precision: MixedPrecision = MixedPrecision.no
    pure_bf16: bool = False
    gradient_checkpointing: bool = False
    optimizer: Optimizer = Optimizer.adamw
    tracker: Tracker = Tracker.wandb
    wandb_mode: WandbMode = WandbMode.offline
    wandb_project: str = "tuneoff"
    tags: Any = names()
    resume: str = "never"
    rerun: bool = False
    tuned: str | None = None  # a sweep's folder: each method takes its best settings from there
    fail_fast: bool = False  # a sweep ends with its first failed job
    job_memory_gib: float | None = above(None, 0)  # limits of a sweep's job
    job_timeout_seconds: float | None = above(None, 0)
    job_stall_seconds: float | None = above(None, 0)
    save_model: bool = False
    export_merged: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        self.model.check()
        self.data.check()
        check_ranges(self)
        if self.task is Task.train and self.model.pretrained and self.model.path is None:
            raise ConfigError("model.path", None, "must be a folder or a hub name with weights; model.pretrained=false "
                              "draws random ones")
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if len(given) > 1:
            raise ConfigError(given[1], getattr(self, given[1]), f"one budget a run, and {given[0]} is already given")
        if self.pure_bf16 and self.mixed_precision is not MixedPrecision.no:
            raise ConfigError("mixed_precision", self.mixed_precision, "must be no where pure_bf16=true")
        if self.pure_bf16 and self.dtype is Dtype.float32:
            raise ConfigError("dtype", self.dtype, "must be bfloat16 (or left out) where pure_bf16=true")
        if self.dtype is None:
            self.dtype = Dtype.bfloat16 if self.pure_bf16 else Dtype.float32
        if self.dtype is Dtype.bfloat16 and self.mixed_precision is MixedPrecision.fp16:
            raise ConfigError("mixed_precision", self.mixed_precision, "must be no or bf16 where dtype=bfloat16")
        if self.export_merged and not self.save_model:
            raise ConfigError("export_merged", True, "needs save_model=true")
        if self.resume not in ("never", "auto") and not (Path(self.resume) / RUN).is_file():
            raise ConfigError("resume", self.resume, "must be never, auto, or the folder of a run")

    @property
    def sharding(self) -> str | None:
        """DeepSpeed or FSDP where `accelerate launch` was told to use it; either splits the weights over the ranks."""
        launched = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}
        return next((name for key, name in launched.items() if os.environ.get(key, "").lower() in ("1", "true")), None)

    @property
    def processes(self) -> int:
        """Ranks of this run, as the launcher (torchrun, accelerate launch) has set them."""
        return int(os.environ.get("WORLD_SIZE", 1))

    @property
    def budget(self) -> tuple[str, float]:
        """The one budget of this run: its kind (epochs, max_steps, max_tokens, max_seconds) and its value."""
        for key in BUDGETS:
            if getattr(self, key) is not None:
                return key, getattr(self, key)
        return "max_steps", self.default_steps


# ---------------------------------------------------------------- methods as typed top-level keys
class Method:
    """The hooks of a fine-tuning method, with the defaults that suit most. A method is a dataclass of its options."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self, run: Experiment) -> None:
        """Refuse combinations with the shared settings, before torch is imported.

        Raises:
            ConfigError: naming the key to change.
        """

    def prepare(self, model: Any) -> Any:
        """Freeze or wrap; return the model to train. New weights are drawn from torch's seeded global generator."""
        return model

    def make_optimizer(self, model: Any, run: Experiment) -> Any:
        """Return a `torch.optim.Optimizer` over what trains.

        It may offer more: `gradient_norm()` where it steps inside backward; `refresh_interval`, the steps after which
        its memory repeats (set to 1, the next step is one that refreshes); `extra_state_tensors()` for what it keeps
        outside `state`; `costly_phases()` and `enter_phase(n)` where what trains changes in turn.
        """
        from tuneoff.optimizers import make, parameter_groups
        return make(parameter_groups(model.named_parameters(), run.lr, run.weight_decay), run)

    def ever_trained(self, model: Any, optimizer: Any) -> set[str]:
        """Names of the parameters that the whole run may change; more than `requires_grad` says for block methods."""
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def export(self, model: Any, folder: Path, merged: bool) -> dict:
        """Save the trained model so that `from_pretrained` reproduces it; return facts for the record."""
        model.save_pretrained(folder)
        return {}

    def facts(self, model: Any) -> dict:
        """Further entries of the record, such as what a method converted or left out."""
        return {}


def register(cls: type) -> type:
    """Store options + experiment as one schema, named like the module; return the method class as it was.

    Raises:
        TypeError: where an option has the name of a hook or of a shared setting, which it would shadow.
    """
    clash = {item.name for item in fields(cls)} & (set(dir(Method)) | {item.name for item in fields(Experiment)})
    if clash:
        raise TypeError(f"{cls.__name__}: option names already taken: {', '.join(sorted(clash))}")
    # The composed class only types the keys: each half validates itself when `bind` builds it.
    body = {"options": cls, "__post_init__": lambda self: None, "__module__": cls.__module__,
            "__qualname__": f"{cls.__qualname__}.schema"}
    schema: Any = dataclass(type(cls.__name__, (cls, Experiment), body))
    cls.schema = schema  # type: ignore[attr-defined]  # found under its name, a launcher can pickle a config
    name = cls.__module__.rpartition(".")[2]
    ConfigStore.instance().store(group="schema", name=name, node=schema, package="_global_")
    return cls


def schemas() -> dict[str, Any]:
    """The composed class of every registered method family, by the module's name."""
    store = ConfigStore.instance()
    return {file.removesuffix(".yaml"): OmegaConf.get_type(store.load(f"schema/{file}").node)
            for file in store.list("schema")}


def odd_keys(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Keys that no dataclass declares, or that a `~` removed, at every depth: Hydra accepts both silently."""
    declared: Any = OmegaConf.get_type(cfg)
    known = [item.name for item in fields(declared)]
    for key in known:
        if key not in list(cfg):
            yield f"~{prefix}{key}", ABSENT, "cannot be removed"
        elif OmegaConf.is_missing(cfg, key):
            yield prefix + key, ABSENT, "must be given"
    for key in map(str, cfg):
        node = cfg._get_node(key)
        if key not in known:
            yield prefix + key, node, no_such_option(f"{prefix}{key}", known, OmegaConf.select(cfg, "method"))
        elif OmegaConf.is_dict(node) and is_dataclass(OmegaConf.get_type(node)):
            yield from odd_keys(cfg[key], f"{prefix}{key}.")


def no_such_option(key: str, known: list[str], method: str | None) -> str:
    """What to say of a key that no dataclass declares: whose option it is, or which it resembles."""
    parent, _, name = key.rpartition(".")
    if parent:
        return f"no such option in {parent}" + (nearest(name, known) or f"; there are {', '.join(known)}")
    owners = [owner for owner, schema in schemas().items() if name in (item.name for item in fields(schema))]
    elsewhere = f", but for {', '.join(owners)}" if owners else nearest(name, known)
    return f"no such option for method={method}{elsewhere}"


def nearest(word: str, known: Any) -> str:
    """`; did you mean …?` where a known name is close to `word`, else nothing."""
    from difflib import get_close_matches
    close = get_close_matches(word, [str(name) for name in known], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def bind(cfg: DictConfig) -> tuple[Experiment, Any]:
    """Return (experiment, method), each built from its own keys alone, and checked together.

    Raises:
        ConfigError: for the first key that is unknown, removed, out of range, or contradicts another.
    """
    for key, value, allowed in odd_keys(cfg):
        raise ConfigError(key, value, allowed)
    whole: Any = OmegaConf.to_object(cfg)
    experiment, method = _pick(Experiment, whole), _pick(whole.options, whole)
    method.check(experiment)
    return experiment, method


def _pick(cls: type, whole: Any) -> Any:
    return cls(**{item.name: getattr(whole, item.name) for item in fields(cls)})


# ---------------------------------------------------------------- identity
def resolved(cfg: DictConfig) -> dict:
    """The task's config as plain values (enums by name), without Hydra's own part."""
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return OmegaConf.to_container(task, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def identity(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name a run: a hash of what can change its result, the data file included."""
    plain = {key: value for key, value in resolved(cfg).items() if key not in INCIDENTAL}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    path = Path(cfg.data.path).expanduser()
    if path.is_file():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def derive(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose (modules, order, dropout, blocks), so that no draw disturbs another."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7])


ConfigStore.instance().store(name="experiment", node=Experiment)
