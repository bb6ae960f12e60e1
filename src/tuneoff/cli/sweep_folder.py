"""A sweep's folder: named by what its command line varies and fixes, so that the same command finds it again."""

import hashlib
import itertools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tuneoff.config import Experiment, Role, find_settings
from tuneoff.record import mask_secrets

MOST_CHARACTERS = 80
DIR = "hydra.sweep.dir="


def name_sweep_folder(arguments: Sequence[str]) -> str:
    """Return `outputs/method-seed_max_steps-100` for `method=lora,full seed=0,1 max_steps=100`.

    The values that are swept do not stand in the name, so that a sweep to which some are added goes on where it was.
    """
    incidental = find_settings(Experiment, Role.INCIDENTAL)
    swept = []
    fixed = []
    for word in mask_secrets(list(arguments)):
        key = word.partition("=")[0].lstrip("+~")
        if word.startswith("-") or "=" not in word or key in incidental or is_of_hydra(key):
            continue
        if sweeps_several(word):
            swept.append(key)
        else:
            fixed.append(word)
    parts = ["-".join(swept), *sorted(fixed)]
    name = make_name(list(filter(None, parts)))
    return f"outputs/{name}"


def is_of_hydra(key: str) -> bool:
    """Whether a key is of Hydra's own part of a config."""
    return re.match(r"hydra(\b|/)", key) is not None


def sweeps_several(word: str) -> bool:
    """Whether an override has more than one value; one that cannot be read is refused later."""
    try:
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override():
            return False
        if not override.is_discrete_sweep():
            return True
        first_two = itertools.islice(override.sweep_iterator(), 2)
        return len(list(first_two)) > 1
    except (HydraException, ValueError):
        return False


def make_name(parts: Sequence[str]) -> str:
    """Return a folder's name of plain characters; where any was replaced or left out, with a hash of the whole."""
    whole = "_".join(parts)
    plain = re.sub(r"[^\w.+-]+", "-", whole.replace("=", "-"), flags=re.ASCII)
    name = re.sub("-+", "-", plain)[:MOST_CHARACTERS].strip("-.") or "sweep"
    if name == whole.replace("=", "-"):
        return name
    return f"{name}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}" if whole else name
