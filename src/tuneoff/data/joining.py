"""Joining: several tokenised sets become one, whose rows know their set and whose splits stay apart.

Order, packing and batches then see one set as ever.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping

from tuneoff.config import ConfigError, Data
from tuneoff.data.dataset import SPLITS, DataSet, fingerprint_rows
from tuneoff.data.unread import add_unread

# What a row of one split may not ask that a row of another set does in one of these.
JUDGED_BY = {"train": ("validation", "test"), "validation": ("test",), "test": ()}

# A row, by the number of its set and its place among that set's rows of a split.
PlacesBySet = list[list[int]]
Place = tuple[int, int]


def join_sets(data: Data, parts: Mapping[str, DataSet]) -> DataSet:
    """Join the rows of several sets.

    Args:
        data: how they are mixed.
        parts: the sets by name, in the order of `data.sets`.

    Raises:
        ConfigError: a set of which no training row is left, or whose weight gives it none.
    """
    joined = DataSet(set_names=tuple(parts))
    sets = list(parts.values())
    kept_apart = {}
    for split in SPLITS:
        places_by_set = keep_apart(sets, split)
        kept_apart[split] = count_left_out(sets, split, places_by_set)
        if split == "train":
            refuse_emptied(data, places_by_set)
            places = mix(data, places_by_set)
        else:
            places = concatenate(places_by_set)
        take_rows(joined, sets, split, places)
    for name in ("cut", "dropped"):
        counts: Counter = Counter()
        for part in sets:
            counts.update(getattr(part, name))
        setattr(joined, name, dict(counts))
    joined.unread = add_unread([part.unread for part in sets])
    joined.recipe = describe_sets(data, parts, joined, kept_apart)
    joined.fingerprint = fingerprint_sets(data, parts, joined)
    return joined


# ---------------------------------------------------------------- splits stay apart
def keep_apart(sets: list[DataSet], split: str) -> PlacesBySet:
    """Return for each set the places of the rows that no other set is judged by."""
    places_by_set = []
    for part in sets:
        judged: set[int] = set()
        for other in sets:
            if other is not part:
                for other_split in JUDGED_BY[split]:
                    judged.update(other.asked[other_split])
        # A set of text asks nothing.
        asked = part.asked[split] or [None] * len(part.splits[split])
        places_by_set.append([place for place, key in enumerate(asked) if key not in judged])
    return places_by_set


def count_left_out(sets: list[DataSet], split: str, places_by_set: PlacesBySet) -> int:
    """Return how many rows of a split are left out because another set is judged by what they ask."""
    there = sum(len(part.splits[split]) for part in sets)
    return there - sum(map(len, places_by_set))


def refuse_emptied(data: Data, places_by_set: PlacesBySet) -> None:
    """Refuse a set of which no training row is left.

    Raises:
        ConfigError: with the set.
    """
    for name, places in zip(data.sets, places_by_set, strict=True):
        if not places and data.sets[name].only_for is None:
            allowed = "all its training rows ask what another set is judged by"
            raise ConfigError(f"data.sets.{name}.path", data.sets[name].path, allowed)


# ---------------------------------------------------------------- mixing
def concatenate(places_by_set: PlacesBySet) -> list[Place]:
    """Return every row once, set after set."""
    every_place = []
    for number, places in enumerate(places_by_set):
        every_place += [(number, place) for place in places]
    return every_place


def mix(data: Data, places_by_set: PlacesBySet) -> list[Place]:
    """Return the rows of an epoch: each once, or shares by weight in an order that is a draw.

    Raises:
        ConfigError: a weight so small that the set gives no row.
    """
    if data.mixing == "concatenate":
        return concatenate(places_by_set)
    numbers = []
    for number, settings in enumerate(data.sets.values()):
        if settings.only_for is None:
            numbers.append(number)
    names = list(data.sets)
    weights = [data.sets[names[number]].weight for number in numbers]
    lengths = [len(places_by_set[number]) for number in numbers]
    counts = count_rows_to_draw(lengths, weights, data.mixing)
    wanted = dict(zip(numbers, counts, strict=True))
    draw = random.Random(data.mixing_seed)
    drawn = {}
    labels = []
    for number, count in wanted.items():
        places = places_by_set[number]
        if not count:
            name = names[number]
            allowed = "gives no row of this set beside the others' weights"
            raise ConfigError(f"data.sets.{name}.weight", data.sets[name].weight, allowed)
        whole, rest = divmod(count, len(places))
        # Every row as often as any other, but for those of the rest.
        extra = sorted(draw.sample(places, rest))
        drawn[number] = iter(places * whole + extra)
        labels += [number] * count
    draw.shuffle(labels)
    return [(number, next(drawn[number])) for number in labels]


def count_rows_to_draw(
    lengths: list[int],
    weights: list[float],
    mixing: str,
) -> list[int]:
    """Return how many rows each set gives to an epoch, in proportion to the weights.

    Under `interleave_under` no set gives a row twice, and the one that is used up first gives all; under
    `interleave_over` every set gives all of its rows, and those that are used up earlier begin again.
    """
    passes = [length / weight for length, weight in zip(lengths, weights, strict=True)]
    epoch = min(passes) if mixing == "interleave_under" else max(passes)
    return [round(epoch * weight) for weight in weights]


# ---------------------------------------------------------------- the joined set
def take_rows(
    joined: DataSet,
    sets: list[DataSet],
    split: str,
    places: list[Place],
) -> None:
    """Add rows to a split, with what is known of each."""
    answers: list[str | None] = []
    for number, place in places:
        part = sets[number]
        joined.splits[split].append(part.splits[split][place])
        joined.set_numbers[split].append(number)
        known_answers = part.answers.get(split)
        answers.append(known_answers[place] if known_answers else None)
    if split != "train":
        joined.answers[split] = answers


def describe_sets(
    data: Data,
    parts: Mapping[str, DataSet],
    joined: DataSet,
    kept_apart: dict[str, int],
) -> dict:
    """Return what the record says of the sets; what they all agree in stands before them, as of one set."""
    recipes = [part.recipe for part in parts.values()]
    common = dict(recipes[0])
    for recipe in recipes:
        for key in list(common):
            if (key, common[key]) not in recipe.items():
                common.pop(key)
    counts = {split: Counter(joined.list_set_names(split)) for split in SPLITS}
    sets = {}
    for name, part in parts.items():
        rows = {split: counts[split][name] for split in SPLITS}
        weight = data.sets[name].weight
        sets[name] = {**part.facts(), "weight": weight, "joined_rows": rows}
    return {
        **common,
        "mixing": data.mixing,
        "mixing_seed": data.mixing_seed,
        "kept_apart": kept_apart,
        "sets": sets,
    }


def fingerprint_sets(data: Data, parts: Mapping[str, DataSet], joined: DataSet) -> str:
    """Return 16 hexadecimal digits: a hash of the rows, of each set, and of how they are mixed."""
    sets = []
    for name, part in parts.items():
        sets.append([name, part.fingerprint, data.sets[name].weight])
    mixture = [sets, data.mixing, data.mixing_seed, fingerprint_rows(joined.splits)]
    return hashlib.sha256(json.dumps(mixture).encode()).hexdigest()[:16]
