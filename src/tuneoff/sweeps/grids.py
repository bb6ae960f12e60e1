"""Grids as pure functions: the points of a sweep, from its YAML and the command line."""

from collections.abc import Iterator, Mapping

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from tuneoff.config import ConfigError, find_method_options


def override_keys(overrides: list[str]) -> set[str]:
    """The options that overrides set."""
    return {text.lstrip("+~").partition("=")[0] for text in overrides}


def find_varied_keys(points: list[list[str]]) -> list[str]:
    """The options in which the points differ."""
    common = set.intersection(*map(set, points)) if points else set()
    return sorted(
        {text.partition("=")[0] for point in points for text in point if text not in common}
    )


def expand_grids(
    parser: OverridesParser, grids: list, params: Mapping, arguments: list[str]
) -> Iterator[list[str]]:
    """The points of each grid times `params`; values of the command line replace those of the same key.

    A method's own option that some grids name is replaced in those; `method=` keeps the grids of the methods it names.

    Raises:
        ConfigError: `method=` names none, or one that no grid has.
    """
    given = {override.get_key_element(): override for override in parser.parse_overrides(arguments)}
    parsed = [_parse(parser, grid) for grid in grids]
    elsewhere = {key for grid in parsed for key in grid} & find_method_options()
    _refuse_other_methods(given, parsed)
    for grid in parsed:
        swept = {**_parse(parser, params), **grid}
        for key, override in given.items():
            if key == "method" and key in grid:
                chosen = [
                    value for value in swept_values(grid[key]) if value in swept_values(override)
                ]
                if not chosen:
                    break
                swept[key] = parser.parse_override(f"method={','.join(chosen)}")
            elif key in grid or key not in elsewhere:
                swept[key] = override
        else:
            yield from BasicSweeper.split_arguments(list(swept.values()), None)[0]


def _parse(parser: OverridesParser, grid: Mapping) -> dict[str, Override]:
    words = [f"{key}={'null' if value is None else value}" for key, value in grid.items()]
    return {override.get_key_element(): override for override in parser.parse_overrides(words)}


def _refuse_other_methods(given: Mapping[str, Override], grids: list[dict[str, Override]]) -> None:
    known = [value for grid in grids if "method" in grid for value in swept_values(grid["method"])]
    if known and all("method" in grid for grid in grids) and "method" in given:
        for value in swept_values(given["method"]):
            if value not in known:
                allowed = ", ".join(dict.fromkeys(known))
                raise ConfigError("method", value, f"must be one of this sweep's grids: {allowed}")


def swept_values(override: Override) -> list[str]:
    """What an override sweeps over, or its one value."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [str(override.get_value_element_as_str())]
