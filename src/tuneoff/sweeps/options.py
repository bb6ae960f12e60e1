"""Options of the sweeper, which conf/hydra/sweeper/grids.yaml lists: read as plain values, or refused by their key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf

from tuneoff.config import ConfigError, explain_unknown_key
from tuneoff.jobs.data_check import ADVICE

KEY = "hydra.sweeper"
# A job's part of its sweep, which the sweeper alone fills in.
JOB_FACTS = (
    "jobs",
    "varied",
    "planned_seeds",
    "work",
    "jobs_left",
    "work_left",
)


@dataclass
class SweepOptions:
    """What a sweep varies.

    Attributes:
        max_batch_size: jobs that the launcher gets at a time.
        params: key: values, swept in every grid.
        grids: such maps, each a grid of its own.
        around: key: factors of the value that the key has without them.
        sobol: a space for Sobol points: `points`, and `around` and `between`, each key: [low, high].
        needs: splits of which the data must have rows, beside those that the runs themselves need.
    """

    max_batch_size: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    grids: list[dict[str, Any]] = field(default_factory=list)
    around: dict[str, list[float]] = field(default_factory=dict)
    sobol: dict[str, Any] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)


def read_options(given: Mapping[str, Any]) -> SweepOptions:
    """The options of a sweep that begins, by name; what is null counts as left out.

    Raises:
        ConfigError: one that there is not, or that is of another kind than it must be.
    """
    written: Any = OmegaConf.to_container(OmegaConf.create(dict(given)))
    plain = {name: value for name, value in written.items() if value is not None}
    for name in JOB_FACTS:
        if name in plain:
            allowed = "is filled in by the sweep itself, and cannot be given"
            raise ConfigError(f"{KEY}.{name}", plain[name], allowed)
    refuse_unknown(KEY, plain, [item.name for item in fields(SweepOptions)])
    return SweepOptions(
        _read_batch_size(plain.get("max_batch_size")),
        read_map(f"{KEY}.params", plain.get("params", {})),
        _read_grids(plain.get("grids", [])),
        _read_around(plain.get("around", {})),
        read_map(f"{KEY}.sobol", plain.get("sobol", {})),
        _read_needs(plain.get("needs", [])),
    )


def refuse_unknown(
    key: str,
    given: Mapping[str, Any],
    known: list[str],
) -> None:
    """Refuse a name below `key` that is none of the known ones.

    Raises:
        ConfigError: with the nearest known one, or all of them.
    """
    for name, value in given.items():
        if name not in known:
            path = f"{key}.{name}"
            raise ConfigError(path, value, explain_unknown_key(path, known, None))


def read_map(key: str, value: Any) -> dict[str, Any]:
    """The keys and values that stand at `key`.

    Raises:
        ConfigError: it is a value alone, or a list.
    """
    if not isinstance(value, dict):
        raise ConfigError(key, value, f"must be keys with values, as in '{key}={{KEY: VALUE}}'")
    return {str(name): item for name, item in value.items()}


def read_numbers(value: Any) -> list[float]:
    """The numbers of a list, of a text with commas, or a number alone; empty where any is none."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        items = [items]
    try:
        # A word such as true is no number, though Python counts with it.
        numbers = [math.nan if isinstance(item, bool) else float(item) for item in items]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _read_batch_size(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is None or is_count:
        return value
    raise ConfigError(f"{KEY}.max_batch_size", value, "must be an integer, at least 1, or null")


def _read_grids(value: Any) -> list[dict[str, Any]]:
    is_list_of_maps = isinstance(value, list) and all(isinstance(grid, dict) for grid in value)
    if not is_list_of_maps:
        allowed = "must be a list of maps, as in [{seed: '0,1', lr: 1e-3}, {lr: 1e-4}]"
        raise ConfigError(f"{KEY}.grids", value, allowed)
    return value


def _read_around(value: Any) -> dict[str, list[float]]:
    around = {}
    for name, written in read_map(f"{KEY}.around", value).items():
        around[name] = read_numbers(written)
        if not around[name]:
            raise ConfigError(f"{KEY}.around.{name}", written, "must be numbers, as in '0.1,1,10'")
    return around


def _read_needs(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(split in ADVICE for split in value):
        raise ConfigError(f"{KEY}.needs", value, f"must be a list of any of {', '.join(ADVICE)}")
    return value
