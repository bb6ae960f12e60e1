"""The options of PEFT's tuners as typed configs: `_peft_options.json`, without PEFT, which takes seconds to import."""

import json
from dataclasses import field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from tuneoff.config import ConfigError, one_of, option

DESCRIBED = json.loads(Path(__file__).with_suffix(".json").read_text())
TUNERS = DESCRIBED["tuners"]
# Why the other types of PEFT cannot be had, by type.
LEFT_OUT = DESCRIBED["left_out"]
# Types whose adapter cannot become a part of the weights, and types that do not start as the base model.
NOT_MERGED = DESCRIBED["not_merged"]
OTHER_START = DESCRIBED["other_start"]
# With these options no type does.
OTHER_START_WITH = (
    ("init_weights", False),
    ("init_weights", "uniform"),
    ("init_ia3_weights", False),
    ("para", True),
)
# Options without which PEFT fails.
NEEDED = DESCRIBED["needed"]
# Options that are at most what another one is.
AT_MOST = {"topk": "num_vectors", "num_frozen_tokens": "num_virtual_tokens"}
# Types of which a prediction counts more gradients than a step holds.
NOT_PREDICTED = ("osf",)
KINDS = {"bool": bool, "int": int, "float": float, "str": str}


class TunerNode(ConfigNode):
    """A tuner's options in Hydra's store, made when they are asked for: all of them would take a tenth of a second."""

    @property
    def node(self) -> DictConfig:
        """The typed options."""
        return OmegaConf.structured(make_options(self.name.removesuffix(".yaml")))

    @node.setter
    def node(self, value: DictConfig) -> None:
        """Ignore what Hydra puts here: a copy of the same."""


def store_tuners() -> None:
    """Put the options of every tuner under `peft_type` in Hydra's store, where a YAML takes them from."""
    nodes = ConfigStore.instance().repo.setdefault("peft_type", {})
    for name in TUNERS:
        file = f"{name}.yaml"
        nodes[file] = TunerNode(file, OmegaConf.create(), "peft_type", None, None)


@cache
def make_options(tuner: str) -> type:
    """Return the dataclass of a tuner's options; its first field is the tuner's name, which nothing changes."""
    tuner_type = one_of(tuner, tuner)
    sentence = {"sentence": "The tuner; another one is another method."}
    tuner_type = field(default=tuner, metadata={**tuner_type.metadata, **sentence})
    members: list = [("type", str, tuner_type)]
    for name, item in TUNERS[tuner].items():
        members.append(make_field(name, item))
    options = make_dataclass(f"{tuner}_options", members, namespace={"__module__": __name__})
    # Found under its name, a launcher can pickle it.
    globals()[options.__name__] = options
    return options


def __getattr__(name: str) -> type:
    """The options of a tuner by their class's name: a process that unpickles them has not made them yet."""
    tuner = name.removesuffix("_options")
    if tuner == name or tuner not in TUNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return make_options(tuner)


def describe_range(item: dict) -> tuple[str, Any]:
    """Return the range of an option in words, and a function that says whether a value lies in it."""
    if "choices" in item:
        choices = item["choices"]
        words = ", ".join(json.dumps(choice).strip('"') for choice in choices)
        return f"must be one of {words}", choices.__contains__
    if item["kind"] == "list":
        return "must be token ids, as in [1,2]", is_list_of_ids
    limits = []
    if "low" in item:
        limits.append(f"at least {item['low']}")
    if "above" in item:
        limits.append(f"above {item['above']}")
    if "below" in item:
        limits.append(f"below {item['below']}")
    low = item.get("low", float("-inf"))
    above = item.get("above", float("-inf"))
    below = item.get("below", float("inf"))

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value and above < value < below

    kind = "a number, " if item["kind"] == "number" else ""
    return f"must be {kind}{' and '.join(limits)}", accepts


def is_list_of_ids(value: Any) -> bool:
    """Whether a value is a list of token ids that is not empty."""
    if not isinstance(value, list) or not value:
        return False
    return all(type(item) is int and item >= 0 for item in value)


def check_together(options: Any) -> None:
    """Refuse options of a tuner that do not go together, or one that is null and needed.

    Raises:
        ConfigError: naming the first.
    """
    values = vars(options)
    for item in fields(options):
        if item.name in NEEDED and values[item.name] is None:
            raise ConfigError(f"peft.{item.name}", None, item.metadata["allowed"])
    for name, other in AT_MOST.items():
        if name in values and values[name] > values[other]:
            allowed = f"must be at most peft.{other}={values[other]}"
            raise ConfigError(f"peft.{name}", values[name], allowed)


def make_field(name: str, item: dict) -> tuple[str, Any, Any]:
    """Return an option of a tuner as `make_dataclass` takes it: its name, type and field."""
    default = MISSING if name in NEEDED else item["default"]
    kind: Any = KINDS.get(item["kind"], Any)
    if default is None and kind is not Any:
        kind = kind | None
    metadata = {"sentence": item["sentence"]}
    if item["kind"] not in ("bool", "str"):
        allowed, accepts = describe_range(item)
        metadata.update(option(default, allowed, accepts).metadata)
    return name, kind, field(default=default, metadata=metadata)
