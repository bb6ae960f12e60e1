"""Settings that nobody thought of: whatever is drawn is taken, or refused in one line; never a traceback."""

from copy import deepcopy
from dataclasses import fields

from drawn import SCALARS, TEXTS, assert_refusal, drawn
from helpers import METHODS, compose_choices
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
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
SETTINGS = st.one_of(SCALARS, st.sampled_from(ODD_TEXTS))
VALUES = st.one_of(
    SETTINGS,
    st.lists(SETTINGS, max_size=3),
    st.dictionaries(st.one_of(TEXTS, st.integers(0, 3)), SETTINGS, max_size=2),
)


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
    cfg = deepcopy(compose_choices("model.pretrained=false", f"method={method}"))
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
        assert_refusal(line)
