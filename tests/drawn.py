"""What the property tests draw: odd texts, numbers and values, and damage to a file of JSON."""

import json
import math
import re
from copy import deepcopy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONGEST_LINE = 1600  # of a refusal


def drawn(examples: int):
    """Draw the same examples each time, as many as CI's time allows."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_printable_line(text: str) -> None:
    """One line that a terminal shows as it is."""
    assert text.strip()
    assert not [char for char in text if not char.isprintable()], repr(text)


def assert_refusal(text: str) -> None:
    """One line with a key and what is allowed, not what Python says of its own objects."""
    assert_printable_line(text)
    assert len(text) < LONGEST_LINE, text[:200]
    assert re.match(r"[+~]*[A-Za-z][\w./@-]*(=.*)?: .", text), text
    assert not re.search(r"NoneType|object has no|not supported between|unhashable|<.* at 0x", text)


NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308]),
)
STRANGE_CHARACTERS = st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Zl", "Po", "So"])
TEXTS = st.one_of(st.text(max_size=12), st.text(STRANGE_CHARACTERS, max_size=6))
SCALARS = st.one_of(NUMBERS, TEXTS, st.none(), st.booleans())
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


# ---------------------------------------------------------------- damage
def paths_in(content, path=()) -> list[tuple]:
    """The way to every value in a nest of dictionaries and lists."""
    items = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    paths = []
    for key, value in items:
        paths += [(*path, key), *paths_in(value, (*path, key))]
    return paths


def put(content, path: tuple, value):
    """The same content with another value at a path."""
    content = deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


def take(content, path: tuple):
    """The same content without the value at a path."""
    content = deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


def damaged(content: dict) -> st.SearchStrategy[bytes]:
    """A file of JSON with another value, without one, cut off, or with other bytes inside."""
    paths = st.sampled_from(paths_in(content))
    whole = json.dumps(content).encode()
    places = st.integers(0, len(whole))
    return st.one_of(
        st.builds(put, st.just(content), paths, JSON_VALUES).map(json.dumps).map(str.encode),
        st.builds(put, st.just(content), paths, JSON_VALUES).map(json.dumps).map(str.encode),
        st.builds(take, st.just(content), paths).map(json.dumps).map(str.encode),
        JSON_VALUES.map(json.dumps).map(str.encode),
        places.map(lambda place: whole[:place]),
        st.builds(lambda place, more: whole[:place] + more + whole[place:], places, st.binary()),
        st.binary(),
    )
