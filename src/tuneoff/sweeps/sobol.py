"""Sobol points: a space of several settings, searched evenly by few points, which are the same for every method."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, check_package

KEY = "hydra.sweeper.sobol"
SEED = 0


def refuse_bad_space(space: Mapping) -> None:
    """Refuse what is no space, before anything is composed.

    Raises:
        ConfigError: naming the part.
    """
    check_package(KEY, dict(space), "scipy", "report")
    count = space.get("points")
    is_power = isinstance(count, int) and count >= 2 and count & (count - 1) == 0
    if not is_power:
        raise ConfigError(f"{KEY}.points", count, "must be a power of 2, from 2 on")
    ranges = list_ranges(space)
    if not ranges:
        raise ConfigError(KEY, dict(space), "needs around or between, each KEY: [low, high]")
    for (kind, key), ends in ranges.items():
        lowest = 0.0 if kind == "around" else float("-inf")
        if len(ends) != 2 or not lowest < ends[0] < ends[1]:
            raise ConfigError(f"{KEY}.{kind}.{key}", ends, "must be [low, high], low below high")


def list_ranges(space: Mapping) -> dict[tuple[str, str], list[float]]:
    """The ends of each range, by kind and key, in an order that does not depend on a method."""
    ranges = {}
    for kind in ("around", "between"):
        for key, ends in sorted((space.get(kind) or {}).items()):
            ranges[kind, str(key)] = [float(end) for end in ends]
    return ranges


def list_sobol_points(
    space: Mapping,
    task: DictConfig,
    given: set[str],
) -> list[list[str]]:
    """Return each point as overrides: factors of what the task has, evenly by their logarithm, and values, evenly.

    A setting that the task does not have, or that is given, keeps its axis, so that methods share the others' values.
    Source: I. M. Sobol' (1967), scrambled as A. B. Owen (1998) has it; `scipy.stats.qmc`.
    """
    from scipy.stats import qmc

    ranges = list_ranges(space)
    sequence = qmc.Sobol(len(ranges), scramble=True, rng=SEED)
    drawn = sequence.random(space["points"])
    points: list[list[str]] = []
    for coordinates in drawn:
        words = []
        for (kind, key), place in zip(ranges, coordinates, strict=True):
            base = OmegaConf.select(task, key)
            if key in given or (kind == "around" and base is None) or not has_key(task, key):
                continue
            low, high = ranges[kind, key]
            if kind == "around":
                value = scale_value(base, low * (high / low) ** float(place))
            else:
                value = round_value(low + (high - low) * float(place))
            words.append(f"{key}={value}")
        if words not in points:
            points.append(words)
    return points


def has_key(task: DictConfig, key: str) -> bool:
    """Whether a composed task has a setting, be it null."""
    parent, _, name = key.rpartition(".")
    holder: Any = OmegaConf.select(task, parent) if parent else task
    return holder is not None and name in holder


def scale_value(base: Any, factor: float) -> str:
    """A factor times the value that a setting has; whole and at least 1 where that is whole."""
    if isinstance(base, int):
        return str(max(1, round(base * factor)))
    return round_value(base * factor)


def round_value(value: float) -> str:
    """Three digits, as a rate is written."""
    return f"{value:.3g}"
