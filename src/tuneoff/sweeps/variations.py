"""Variations: the configs that come of one composed config by plain values, read without reading anew what they share.

OmegaConf takes five milliseconds to resolve a config of 250 settings and to make objects of it; a sweep's points
differ in a few.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from omegaconf import Container, DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuneoff.config import find_invalid_keys, read_settings, refuse_invalid_keys


class Variations:
    """A composed config without Hydra's part, which is lent out with values changed."""

    def __init__(self, task: DictConfig):
        self._task = task
        # Of the config as it is; None where that cannot be read, or what stands in one place is another's.
        self._settings: Any = None
        self._interpolated: list[str] = []
        nodes = task._content
        assert isinstance(nodes, dict)
        is_linked = any(_links_containers(node) for node in nodes.values())
        if is_linked or any(find_invalid_keys(task)):
            return
        try:
            self._settings = OmegaConf.to_object(task)
        except OmegaConfBaseException:
            return  # a point's values may mend it
        self._interpolated = [str(name) for name in nodes if _interpolates(nodes[name])]

    @contextmanager
    def change(self, overrides: Sequence[Override]) -> Iterator[DictConfig]:
        """Lend the config with values changed, and put back what was there.

        Raises:
            ConfigCompositionException: a value that a setting cannot have.
        """
        task = self._task
        nodes = task._content
        assert isinstance(nodes, dict)
        names = _list_names(overrides)
        if self._settings is None or any(_may_link(override, nodes) for override in overrides):
            task = copy.deepcopy(task)
            names = []
        kept = {name: copy.deepcopy(nodes[name]) for name in names if name in nodes}
        try:
            ConfigLoaderImpl._apply_overrides_to_config(list(overrides), task)
            yield task
        finally:
            nodes.update(kept)

    def read(self, overrides: Sequence[Override]) -> Any:
        """The settings of the config with values changed, as one object that is the caller's own.

        Raises:
            ConfigError: a key that cannot be.
            ConfigCompositionException: a value that a setting cannot have.
        """
        with self.change(overrides) as task:
            if self._settings is None:
                return read_settings(task)
            names = _list_names(overrides)
            refuse_invalid_keys(task, names)
            settings = copy.deepcopy(self._settings)
            try:
                for name in [*names, *self._interpolated]:
                    setattr(settings, name, _read_value(task, name))
            except OmegaConfBaseException:
                return read_settings(task)  # raises the same, in the words of the whole
            return settings


def _list_names(overrides: Sequence[Override]) -> list[str]:
    """The settings at the root in which overrides change something, each once."""
    return list(dict.fromkeys(override.key_or_group.partition(".")[0] for override in overrides))


def _read_value(task: DictConfig, name: str) -> Any:
    """A setting at the root, resolved, with objects where dataclasses declare the keys."""
    value = task[name]
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _list_children(node: Node) -> list[Node]:
    """The nodes in a container; none of a value, nor of a container that is null, missing, or another's."""
    content = node.__dict__["_content"] if isinstance(node, DictConfig | ListConfig) else None
    if isinstance(content, dict):
        return list(content.values())
    return list(content) if isinstance(content, list) else []


def _interpolates(node: Node) -> bool:
    """Whether a node, or any below it, is an interpolation."""
    return node._is_interpolation() or any(map(_interpolates, _list_children(node)))


def _links_containers(node: Node) -> bool:
    """Whether a node, or any below it, is a container by interpolation: to change it would change the other."""
    if isinstance(node, Container) and node._is_interpolation():
        return True
    return any(map(_links_containers, _list_children(node)))


def _may_link(override: Override, nodes: dict) -> bool:
    """Whether a value interpolates where it may make a container another's."""
    name = override.key_or_group.partition(".")[0]
    return "${" in str(override.input_line) and isinstance(nodes.get(name), Container)
