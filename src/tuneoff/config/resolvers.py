"""Resolvers: values of a config that are worked out when it is read."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config.paths import is_shipped
from tuneoff.distributed.launch import get_world_size


def choose_by_model(embedded: Any, other: Any, *, _root_: DictConfig) -> Any:
    """`${embedded:A,B}` in a YAML: A for the model that ships with the package and its short budget, else B."""
    path = _root_.model.path
    return embedded if path is not None and is_shipped(str(path)) else other


OmegaConf.register_new_resolver("embedded", choose_by_model, replace=True)
# Asked when a config is checked or an experiment made: what launches ranks says how many only then.
OmegaConf.register_new_resolver("world_size", get_world_size, replace=True)
