"""Methods as typed top-level keys: a schema for each, a config bound to (experiment, method), and a run's identity."""
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from tuneoff.config.options import ABSENT, ConfigError, check_ranges, nearest
from tuneoff.config.places import data_hash
from tuneoff.config.settings import Experiment
from tuneoff.record import INCIDENTAL


class Method:
    """The hooks of a fine-tuning method, with the defaults that suit most. A method is a dataclass of its options."""
    keeps_base = False  # whether the base weights stay as they are, so that they may be quantised
    packages: ClassVar[tuple[str, ...]] = ()  # what does the method, as pip knows it: every record names its version

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


def packages() -> list[str]:
    """The packages that do the registered methods."""
    return sorted({name for schema in schemas().values() for name in schema.options.packages})


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


def bind(cfg: DictConfig) -> tuple[Experiment, Any]:
    """Return (experiment, method), each built from its own keys alone, and checked together.

    Raises:
        ConfigError: for the first key that is unknown, removed, out of range, or contradicts another.
    """
    for key, value, allowed in odd_keys(cfg):
        raise ConfigError(key, value, allowed)
    whole: Any = OmegaConf.to_object(cfg)
    experiment, method = _pick(Experiment, whole), _pick(whole.options, whole)
    if experiment.quantised and not method.keeps_base:
        key, value = experiment.quantised
        raise ConfigError(key, value, f"method={experiment.method} trains the base weights, and quantised ones cannot "
                          "be trained; adapters on top of them can")
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
    """Eight hexadecimal digits that name a run: a hash of what can change its result, the data's files included."""
    plain = {key: value for key, value in resolved(cfg).items() if key not in INCIDENTAL}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for data in (cfg.data, cfg.forgetting.data):
        digest.update(b"" if data is None else data_hash(data.path).encode())
    return digest.hexdigest()[:8]


ConfigStore.instance().store(name="experiment", node=Experiment)
