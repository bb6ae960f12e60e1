"""Schemas in Hydra's store: each method's options, composed with the shared settings."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from tuneoff.config.experiment import Experiment


class SchemaNode(ConfigNode):
    """A method's options in Hydra's store, made when they are asked for: all would take 0.2 seconds."""

    def __init__(self, name: str, schema: type):
        self.schema = schema
        super().__init__(name, OmegaConf.create(), "schema", "_global_", None)

    @property
    def node(self) -> DictConfig:
        """The typed options, together with the shared settings."""
        return OmegaConf.structured(self.schema)

    @node.setter
    def node(self, value: DictConfig) -> None:
        """Ignore what Hydra puts here: a copy of the same."""


def store_schema(options: type) -> None:
    """Put a method's options, composed with the shared settings, under its module's name in Hydra's store."""
    # The composed class only types the keys: each half validates itself when `bind` builds it.
    body = {
        "options": options,
        "__post_init__": lambda self: None,
        "__module__": options.__module__,
        "__qualname__": f"{options.__qualname__}.schema",
    }
    schema: Any = dataclass(type(options.__name__, (options, Experiment), body))
    options.schema = schema  # type: ignore[attr-defined]  # found under its name, a launcher can pickle a config
    file = f"{options.__module__.rpartition('.')[2]}.yaml"
    nodes = ConfigStore.instance().repo.setdefault("schema", {})
    nodes[file] = SchemaNode(file, schema)
