"""The best of a tuning's trials: the values with the lowest mean validation loss, over seeds that all values have."""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import Any

from tuneoff.record.judgement import find_common_seeds
from tuneoff.sweeps.trials import has_settled

Space = dict[str, list]  # by key: the values that were tried, in order
Places = tuple[int, ...]  # of a trial's values in the space, the rate's first
Losses = dict[int, list[float]]  # by seed; infinite where a trial came to no result


def choose_best(
    trials: Sequence[dict],
    settings: Sequence[dict[str, Any]],
    space: Space,
) -> dict[str, Any]:
    """Return the values of the space with the lowest mean loss; empty where nothing finished.

    Of equal ones the lowest rate is taken, then what stands first in the space.

    Args:
        trials: the results.
        settings: of each trial, by their whole keys.
        space: what was tuned.
    """
    groups = group_losses(trials, settings, space)
    seeds = find_common_seeds(groups.values())
    means = {places: mean_loss(losses, seeds) for places, losses in groups.items()}
    winner = min(means, key=lambda places: (means[places], places))
    if means[winner] == math.inf:
        return {}
    place_of = dict(zip(rate_first(space), winner, strict=True))
    return {key: space[key][place_of[key]] for key in space}


def rate_first(space: Space) -> list[str]:
    """The keys of a space, the rate's before the others."""
    return sorted(space, key=lambda key: (key != "lr", key))


def group_losses(
    trials: Sequence[dict],
    settings: Sequence[dict[str, Any]],
    space: Space,
) -> dict[Places, Losses]:
    """The last validation losses of the trials by their values; of one that is to be tried again there is none."""
    groups: dict[Places, Losses] = {}
    keys = rate_first(space)
    for trial, values in zip(trials, settings, strict=True):
        places = tuple(space[key].index(values.get(key)) for key in keys)
        losses = groups.setdefault(places, {})
        if has_settled(trial):
            finished = trial["status"] == "finished"
            loss = trial["loss"]["final"] if finished else math.inf
            losses.setdefault(trial["config"]["seed"], []).append(loss)
    return groups


def mean_loss(losses: Losses, seeds: Collection[int]) -> float:
    """Mean over these seeds, of a seed's trials too; infinite where one is missing, or any trial came to no result."""
    means = {seed: statistics.fmean(of_seed) for seed, of_seed in losses.items()}
    is_whole = bool(seeds) and means.keys() >= set(seeds)
    if math.inf in means.values() or not is_whole:
        return math.inf
    return statistics.fmean(means[seed] for seed in seeds)


def describe_seeds(method: str, groups: Collection[Losses]) -> list[str]:
    """Return what to say where not all values have results of the same seeds; nothing where they do."""
    if len({frozenset(losses) for losses in groups}) < 2:
        return []
    seeds = find_common_seeds(groups)
    written = ", ".join(map(str, sorted(seeds))) or "none"
    return [
        f"{method}: its values have results of different seeds; they are compared on seed {written}"
    ]
