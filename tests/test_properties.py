"""Properties: whatever settings, rows and damaged records are drawn, there is no traceback, and nothing old changes."""

import math
import re
from copy import deepcopy
from dataclasses import fields

from conftest import METHODS, composed
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneoff.cli.error_lines import explain_error
from tuneoff.config import (
    Columns,
    Data,
    Experiment,
    Model,
    Splits,
    bind,
    identify_run,
    schemas,
)

LONGEST_LINE = 1600


def drawn(examples: int):
    """Draw the same examples each time, as many as CI's time allows."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# ---------------------------------------------------------------- settings
def keys_of(cls, prefix: str = "") -> list[str]:
    return [prefix + item.name for item in fields(cls)]


KEYS = sorted(
    {
        *keys_of(Experiment),
        *(key for schema in schemas().values() for key in keys_of(schema.options)),
        *keys_of(Model, "model."),
        *keys_of(Data, "data."),
        *keys_of(Columns, "data.columns."),
        *keys_of(Splits, "data.splits."),
        *keys_of(Data, "forgetting.data."),
        "model.config.hidden_size",
        "no_such_key",
        "model.no_such_key",
    }
)
# What looks at the disk, the hub or the environment for a name draws names that are none.
ODD_TEXTS = [
    "",
    " ",
    "a" * 5000,
    "é" * 300,
    "a/b",
    "~nobody/x",
    "/dev/null",
    "a/b/c",
    "tuneoff:",
    "tuneoff:../tiny",
    "x.jsonl",
    "line\nline",
    "\x1b[31m",
    "\x7f",
    "\u2028",
    "a\u0000b",
    "(",
    "(a{99999999999})",
    "(" * 3000,
    "${no_such_key}",
    "${oc.env:NO_SUCH_VARIABLE}",
    "nan",
    "1e999",
    "yes",
    "0x10",
    "１２",
]
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([0, -1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308]),
)
TEXTS = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=12),
    st.text(st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Po", "So"]), max_size=6),
)
SCALARS = st.one_of(NUMBERS, TEXTS, st.none(), st.booleans())
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.one_of(TEXTS, st.integers(0, 3)), SCALARS, max_size=2),
)


def assert_one_line(text: str) -> None:
    assert text.strip() and text == text.strip("\n")
    assert not [char for char in text if char != " " and not char.isprintable()], repr(text)
    assert len(text) < LONGEST_LINE, text[:200]
    # A key, and what is allowed: not what Python says of its own objects.
    assert re.match(r"[+~]*[A-Za-z][\w./@-]*(=.*)?: .", text), text
    assert not re.search(r"NoneType|object has no|not supported between|unhashable|<.* at 0x", text)


def written(value) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{written(key)}:{written(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return {None: "null", True: "true", False: "false"}.get(value, str(value))


OVERRIDES = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "", "", "", "+", "++", "~"]),
    st.sampled_from(KEYS),
    st.one_of(VALUES.map(written), VALUES.map(written), VALUES.map(written), TEXTS),
)


def apply_overrides(method: str, overrides: list[str]):
    """What Hydra does with the command line, on a config that is composed already."""
    cfg = deepcopy(composed("model.pretrained=false", f"method={method}"))
    parsed = OverridesParser.create().parse_overrides(overrides)
    ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
    return cfg


@drawn(250)
@given(st.sampled_from(METHODS), st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(method, overrides):
    try:
        cfg = apply_overrides(method, overrides)
        bind(cfg)
        assert identify_run(cfg) == identify_run(cfg)
    except Exception as error:
        line = explain_error(error, overrides)
        if line is None:
            raise
        assert_one_line(line)
