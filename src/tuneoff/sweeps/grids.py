"""Grids as pure functions: the points of a sweep, from its YAML and the command line."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from tuneoff.config import ConfigError, find_method_options

# Of one key, and of a grid: a slip in a range would otherwise fill the memory before anything could be refused.
MOST_POINTS = 10_000


def override_keys(overrides: list[str]) -> set[str]:
    """The options that overrides set."""
    return {text.lstrip("+~").partition("=")[0] for text in overrides}


def find_varied_keys(points: list[list[str]]) -> list[str]:
    """The options in which the points differ."""
    if not points:
        return []
    common = set.intersection(*map(set, points))
    varied: set[str] = set()
    for point in points:
        varied.update(text.partition("=")[0] for text in point if text not in common)
    return sorted(varied)


def expand_grids(
    parser: OverridesParser, grids: list, params: Mapping, arguments: list[str]
) -> Iterator[list[str]]:
    """The points of each grid times `params`; values of the command line replace those of the same key.

    A method's own option that some grids name is replaced in those; `method=` keeps the grids of the methods it names.

    Raises:
        ConfigError: `method=` names none, or one that no grid has; a key whose values cannot be listed.
    """
    given = by_key(parser.parse_overrides(arguments))
    parsed_grids = [parse_grid(parser, grid) for grid in grids or [{}]]
    refuse_other_methods(given, parsed_grids)
    named: set[str] = set().union(*parsed_grids)
    named_method_options = named & find_method_options()
    for grid in parsed_grids:
        swept = {**parse_grid(parser, params), **grid}
        method = given.get("method")
        if method is not None and "method" in grid:
            kept = keep_methods(grid["method"], method)
            if not kept:
                continue
            swept["method"] = parser.parse_override(f"method={','.join(kept)}")
        for key, override in given.items():
            if key == "method" and key in grid:
                continue
            if key in grid or key not in named_method_options:
                swept[key] = override
        axes = [list_words(override) for override in swept.values()]
        refuse_many_points(swept.values(), axes)
        yield from map(list, itertools.product(*axes))


def refuse_many_points(overrides: Iterable[Override], axes: list[list[str]]) -> None:
    """Refuse a grid of more than `MOST_POINTS` points.

    Args:
        overrides: what each axis is of.
        axes: the words of each axis.

    Raises:
        ConfigError: naming the key with the most values.
    """
    points = math.prod(map(len, axes))
    if points <= MOST_POINTS:
        return
    lengths = [len(words) for words in axes]
    most = max(lengths)
    longest = list(overrides)[lengths.index(most)]
    allowed = (
        f"has {most:,} values in a grid of {points:,} jobs; a sweep has at most {MOST_POINTS:,}"
    )
    raise ConfigError(longest.get_key_element(), longest.get_value_string(), allowed)


def by_key(overrides: list[Override]) -> dict[str, Override]:
    """Parsed overrides by the option that each sets."""
    return {override.get_key_element(): override for override in overrides}


def parse_grid(parser: OverridesParser, grid: Mapping) -> dict[str, Override]:
    """The overrides of a grid's keys and values, by key."""
    words = []
    for key, value in grid.items():
        written = "null" if value is None else value
        words.append(f"{key}={written}")
    return by_key(parser.parse_overrides(words))


def keep_methods(grid_method: Override, given_method: Override) -> list[str]:
    """The methods of a grid that the command line names too."""
    wanted = list_swept_values(given_method)
    return [value for value in list_swept_values(grid_method) if value in wanted]


def refuse_other_methods(
    given: Mapping[str, Override],
    grids: list[dict[str, Override]],
) -> None:
    """Refuse a method of the command line that none of the grids has, where each names its methods.

    Raises:
        ConfigError: with the methods that there are.
    """
    if "method" not in given or not all("method" in grid for grid in grids):
        return
    methods: list[str] = []
    for grid in grids:
        methods += list_swept_values(grid["method"])
    for value in list_swept_values(given["method"]):
        if methods and value not in methods:
            allowed = ", ".join(dict.fromkeys(methods))
            raise ConfigError("method", value, f"must be one of this sweep's grids: {allowed}")


def list_words(override: Override) -> list[str]:
    """An override for each value that one sweeps over."""
    key = override.get_key_element()
    return [f"{key}={value}" for value in list_swept_values(override)]


def list_swept_values(override: Override) -> list[str]:
    """What an override sweeps over, or its one value.

    Raises:
        ConfigError: it sweeps over nothing, over more than `MOST_POINTS` values, or over values that cannot be listed.
    """
    if not override.is_sweep_override():
        return [str(override.get_value_element_as_str())]
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_POINTS + 1))
    except (HydraException, ValueError):  # an interval, or a range whose step is 0
        values = []
    if not values:
        allowed = "must list one value or more, as 0,1 and range(0,3) do, and glob(*) for a group"
        raise ConfigError(override.get_key_element(), override.get_value_string(), allowed)
    if len(values) > MOST_POINTS:
        allowed = f"must list at most {MOST_POINTS:,} values"
        raise ConfigError(override.get_key_element(), override.get_value_string(), allowed)
    return values
