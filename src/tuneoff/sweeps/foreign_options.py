"""Options that a sweep's command line gives to the methods of its file, of which some do not have them."""

from collections.abc import Mapping

from tuneoff.config import find_method_options
from tuneoff.sweeps.bases import has_key
from tuneoff.sweeps.composition import Composer
from tuneoff.sweeps.grids import override_keys

METHOD = "method="


def drop_foreign_options(
    points: list[list[str]],
    given: set[str],
    composer: Composer,
) -> tuple[list[list[str]], list[str]]:
    """Leave out of each point the given options that its method does not have, where others of the sweep's do.

    Args:
        points: the overrides of each.
        given: the keys of the command line.
        composer: of the sweep.

    Returns:
        The points, and a note on each option that some methods run without.
    """
    options_of_methods = find_method_options()
    asked = {key for key in given if key.partition(".")[0] in options_of_methods}
    if not asked:
        return points, []
    options: dict[str, set[str]] = {}
    for point in points:
        choice = find_method_choice(point)
        if choice is not None and choice not in options:
            task = composer.compose_task([choice])
            options[choice] = {key for key in asked if has_key(task, key)}
    # An option that none of the methods has is left in, and refused.
    known: set[str] = set().union(*options.values())
    kept_points = []
    for point in points:
        choice = find_method_choice(point)
        foreign = known - options[choice] if choice is not None else set()
        kept_points.append([text for text in point if not override_keys([text]) & foreign])
    return kept_points, note_owners(sorted(known), options)


def find_method_choice(point: list[str]) -> str | None:
    """The override that chooses a point's method; None where the config's own choice counts."""
    return next((text for text in point if text.startswith(METHOD)), None)


def note_owners(
    known: list[str],
    options: Mapping[str, set[str]],
) -> list[str]:
    """Say which methods an option is for, where not all of the sweep's have it."""
    notes = []
    for option in known:
        owners = [choice.removeprefix(METHOD) for choice in options if option in options[choice]]
        if len(owners) < len(options):
            named = ", ".join(owners)
            notes.append(f"{option} is for {named} alone; the other methods run without it")
    return notes
