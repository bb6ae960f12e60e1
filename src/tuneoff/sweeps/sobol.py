"""Sobol points: a space of several settings, searched evenly by few points, which are the same for every method."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuneoff.config import ConfigError, check_package, find_method_options
from tuneoff.sweeps import options
from tuneoff.sweeps.bases import find_base, has_key, refuse_unknown_setting
from tuneoff.sweeps.options import read_map, read_numbers, refuse_unknown

KEY = f"{options.KEY}.sobol"
KINDS = ("around", "between")
SEED = 0


def refuse_bad_space(space: Mapping) -> None:
    """Refuse what is no space, before anything is composed.

    Raises:
        ConfigError: naming the part.
    """
    check_package(KEY, dict(space), "scipy", "report")
    refuse_unknown(KEY, space, ["points", *KINDS])
    count = space.get("points")
    is_power = isinstance(count, int) and count >= 2 and count & (count - 1) == 0
    if not is_power:
        raise ConfigError(f"{KEY}.points", count, "must be a power of 2, from 2 on")
    ranges = list_ranges(space)
    if not ranges:
        raise ConfigError(KEY, dict(space), "needs around or between, each KEY: [low, high]")
    for (kind, key), ends in ranges.items():
        low = 0.0 if kind == "around" else float("-inf")
        if len(ends) != 2 or not low < ends[0] < ends[1]:
            allowed = "must be [low, high], low below high"
            if kind == "around":
                allowed += ", and both above 0"
            raise ConfigError(f"{KEY}.{kind}.{key}", space[kind][key], allowed)


def list_ranges(space: Mapping) -> dict[tuple[str, str], list[float]]:
    """The ends of each range, by kind and key, in an order that does not depend on a method.

    Raises:
        ConfigError: a kind that holds no keys with values.
    """
    ranges = {}
    for kind in KINDS:
        written = {} if space.get(kind) is None else read_map(f"{KEY}.{kind}", space[kind])
        for key, ends in sorted(written.items()):
            ranges[kind, key] = read_numbers(ends)
    return ranges


def list_sobol_points(
    space: Mapping,
    task: DictConfig,
    given: set[str],
) -> list[list[str]]:
    """Return each point as overrides: factors of what the task has, evenly by their logarithm, and values, evenly.

    A setting that the task does not have, or that is given, keeps its axis, so that methods share the others' values.
    Source: I. M. Sobol' (1967), scrambled as A. B. Owen (1998) has it; `scipy.stats.qmc`.

    Raises:
        ConfigError: a setting that no method has, or factors of what is no number.
    """
    from scipy.stats import qmc

    ranges = list_ranges(space)
    bases = find_bases(ranges, task, given)
    sequence = qmc.Sobol(len(ranges), scramble=True, rng=SEED)
    drawn = sequence.random(space["points"])
    points: list[list[str]] = []
    for coordinates in drawn:
        words = []
        for (kind, key), place in zip(ranges, coordinates, strict=True):
            if (kind, key) not in bases:
                continue
            low, high = ranges[kind, key]
            if kind == "around":
                value = scale_value(bases[kind, key], low * (high / low) ** float(place))
            else:
                value = round_value(low + (high - low) * float(place))
            words.append(f"{key}={value}")
        if words not in points:
            points.append(words)
    return points


def find_bases(
    ranges: Mapping[tuple[str, str], list[float]],
    task: DictConfig,
    given: set[str],
) -> dict[tuple[str, str], Any]:
    """What the task has of each range's setting, without those that it does not have or that are given.

    Raises:
        ConfigError: a setting that no method has, or factors of what is no number.
    """
    bases = {}
    for (kind, key), ends in ranges.items():
        option = f"{KEY}.{kind}.{key}"
        if key not in find_method_options():
            refuse_unknown_setting(option, ends, task, key)
        if key in given or not has_key(task, key):
            continue
        base = OmegaConf.select(task, key)
        if kind == "around" and base is not None:
            base = find_base(option, ends, task, key)
        if kind == "between" or base is not None:
            bases[kind, key] = base
    return bases


def scale_value(base: Any, factor: float) -> str:
    """A factor times the value that a setting has; whole and at least 1 where that is whole."""
    if isinstance(base, int):
        return str(max(1, round(base * factor)))
    return round_value(base * factor)


def round_value(value: float) -> str:
    """Three digits, as a rate is written."""
    return f"{value:.3g}"
