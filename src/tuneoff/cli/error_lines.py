"""Turns what Hydra, OmegaConf and we raise for bad input into one line: the key, the value, what is allowed.

Their own messages take several lines, leave out what is allowed, and advise a `+` that `bind` refuses.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import singledispatch
from traceback import walk_tb
from types import NoneType
from typing import Any, get_args, get_type_hints

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import MarkedYAMLError, safe_load

from tuneoff.config import (
    Columns,
    ConfigError,
    Data,
    Experiment,
    Model,
    Splits,
    explain_unknown_key,
    schemas,
    suggest_nearest,
)
from tuneoff.record import Busy

KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_error(error: BaseException, arguments: list[str]) -> str | None:
    """One line for an error that the user can mend, or None for one that is ours.

    Args:
        arguments: the command line, to name the value that Hydra's message leaves out.
    """
    chain = list(error_chain(error))
    for cause in chain:
        if isinstance(cause, ConfigError | Busy):
            return str(cause)
    if not from_input(chain):
        return None
    # In a sweep the point's own value, not the whole list of the command line.
    merged = (re.match(r"Error merging override (.*)", str(cause)) for cause in chain)
    arguments = [*(match[1] for match in merged if match), *arguments]
    lines = [explain_known_error(cause, arguments) for cause in chain] + [
        first_line(cause) for cause in reversed(chain)
    ]
    return next(filter(None, lines), type(error).__name__)


def from_input(chain: list[BaseException]) -> bool:
    """Whether Hydra or OmegaConf found fault with the input, rather than failed within a call that is ours."""
    for cause in reversed(chain):
        missing = isinstance(
            cause, AttributeError | LookupError
        )  # ours too, where we read a key that is not there
        if isinstance(cause, HydraException | OmegaConfBaseException) and not missing:
            return True
        packages = [
            frame.f_globals.get("__name__", "").partition(".")[0]
            for frame, _ in walk_tb(cause.__traceback__)
        ]
        deciding = [name for name in packages if name in ("hydra", "tuneoff", "__main__")]
        if deciding:
            return deciding[-1] == "hydra"
    return False


def first_line(error: BaseException) -> str:
    """The first line of a message that is not blank, or nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def written_override(key: str, arguments: list[str]) -> str:
    """`key=value` as the user wrote it, or the key alone."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        name = name.lstrip("+~")
        if name == key or name.startswith(f"{key}."):
            return f"{name}={value}"
    return key


# ---------------------------------------------------------------- what is allowed, from the dataclasses
def find_field(key: str) -> Any:
    """The dataclass field behind a dotted key of any method, or None."""
    parent, _, name = key.rpartition(".")
    classes: dict[str, list[Any]] = {
        "": [Experiment, *schemas().values()],
        "model": [Model],
        "data": [Data],
        "data.columns": [Columns],
        "data.splits": [Splits],
    }
    return next(
        (item for cls in classes.get(parent, []) for item in fields(cls) if item.name == name), None
    )


def describe_allowed(cls: Any, name: str) -> str | None:
    """`must be …` from a field's type and its declared range; None where the class says nothing."""
    if not is_dataclass(cls) or name not in (hints := get_type_hints(cls)):
        return None
    kinds = get_args(hints[name]) or (hints[name],)
    kind = kinds[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        words = f"must be one of {', '.join(kind.__members__)}"
    elif kind in KINDS:
        words = f"must be {KINDS[kind]}"
    elif is_dataclass(kind):
        return f"must be given by its parts, {', '.join(f'{name}.{item.name}' for item in fields(kind))}"
    else:
        return None
    allowed = next(item.metadata.get("allowed") for item in fields(cls) if item.name == name)
    words += f", {allowed.removeprefix('must be ')}" if allowed else ""
    return words + (", or null" if NoneType in kinds else "")


# ---------------------------------------------------------------- one sentence for each kind of error
@singledispatch
def explain_known_error(error: BaseException, arguments: list[str]) -> str | None:
    """The line for `error`, or None where an error further in says it better."""
    return None


@explain_known_error.register
def _(error: OverrideParseException, arguments: list[str]) -> str:
    key, equals, _ = error.override.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[\w./@-]+", key):
        return f"{error.override}: must be written key=value"
    return f"{error.override}: the value cannot be read; one that holds any of ,:=()[]{{}}$ is written '{key}=\"…\"'"


@explain_known_error.register
def _(error: MissingConfigException, arguments: list[str]) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if error.options:
        return f"{group}={name}: must be one of {', '.join(error.options)}{suggest_nearest(name, error.options)}"
    if "primary config '" in first_line(error):
        return f"--config-name={error.missing_cfg_file}: no such file in conf, nor in the folder of --config-dir"
    return first_line(error)


@explain_known_error.register
def _(error: SearchPathException, arguments: list[str]) -> str:
    folder = re.search(r"'(.*)'", str(error))
    return f"--config-dir={folder[1]}: must be an existing folder" if folder else first_line(error)


@explain_known_error.register
def _(error: ValidationError, arguments: list[str]) -> str | None:
    if not error.full_key:
        return None
    allowed = describe_allowed(error.object_type, error.key) or first_line(error)
    return f"{written_override(error.full_key, arguments)}: {allowed}"


@explain_known_error.register(ConfigAttributeError)
@explain_known_error.register(ConfigKeyError)
def _(error: OmegaConfBaseException, arguments: list[str]) -> str | None:
    if not error.full_key:
        return None
    known = (
        [item.name for item in fields(error.object_type)] if is_dataclass(error.object_type) else []
    )
    method = OmegaConf.select(error.parent_node._get_root(), "method")
    return f"{written_override(error.full_key, arguments)}: {explain_unknown_key(error.full_key, known, method)}"


@explain_known_error.register
def _(error: ConfigTypeError, arguments: list[str]) -> str | None:
    return (
        f"~{error.full_key}: cannot be removed"
        if "does not support deletion" in str(error)
        else None
    )


@explain_known_error.register
def _(error: MissingMandatoryValue, arguments: list[str]) -> str | None:
    return f"{error.full_key}: must be given" if error.full_key else None


@explain_known_error.register
def _(error: InterpolationResolutionError, arguments: list[str]) -> str | None:
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line(error)).strip(
        "\"'"
    )
    # Hydra resolves the choice of a group under a stand-in key.
    written = written_override(error.full_key or "", arguments)
    return f"{written if '=' in written else next((text for text in arguments if '${' in text), written)}: {reason}"


@explain_known_error.register
def _(error: MarkedYAMLError, arguments: list[str]) -> str:
    mark = error.problem_mark
    return f"{mark.name}, line {mark.line + 1}: {error.problem}" if mark else first_line(error)


@explain_known_error.register
def _(error: UserWarning, arguments: list[str]) -> str:
    folder = re.search(r"path=(.*) is not available", str(error))
    return (
        f"hydra.searchpath: {folder[1]} must be an existing folder" if folder else first_line(error)
    )


@explain_known_error.register
def _(error: RuntimeError, arguments: list[str]) -> str | None:
    plugin = re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_([a-z]+)_", str(error))
    return (
        f"hydra: needs the extra {plugin[1]}: pip install 'tuneoff[{plugin[1]}]'"
        if plugin
        else None
    )


@explain_known_error.register
def _(error: AssertionError, arguments: list[str]) -> str | None:
    if "Unexpected type for root: NoneType" not in str(error):  # OmegaConf's, of a key below a null
        return None
    keys = {text.partition("=")[0]: text for text in arguments}
    deepest = max(keys, key=lambda key: key.count("."))
    return f"{keys[deepest]}: needs {deepest.rpartition('.')[0]}, and that is null"


@explain_known_error.register
def _(error: OSError, arguments: list[str]) -> str:
    return f"{error.filename}: {error.strerror}"


@explain_known_error.register
def _(error: ValueError, arguments: list[str]) -> str | None:
    if not str(error).startswith("Config group override"):
        return None
    groups = (
        "method",
        *(item.name for item in fields(Experiment) if is_dataclass(item.type)),
        "forgetting.data",
        "",
    )
    chosen = [text for text in arguments if text.partition("=")[0] in groups and "=" in text]
    odd = [text for text in chosen if not isinstance(safe_load(text.partition("=")[2]), str)]
    wrong = (*odd, *chosen, "")[0]
    return (
        f"{wrong}: must be written key=value"
        if wrong.startswith("=")
        else f"{wrong}: must be the name of a config"
    )


@explain_known_error.register
def _(error: ConfigCompositionException, arguments: list[str]) -> str | None:
    for pattern, sentence in COMPOSITION.items():
        match = re.search(pattern, str(error))
        if match:
            return (
                sentence(match[1], arguments) if callable(sentence) else sentence.format(match[1])
            )
    return None


def _swept(override: str, arguments: list[str]) -> str:
    key, _, value = override.partition("=")
    item = find_field(key)
    if item is not None and item.metadata.get("names"):
        return f"{override}: a list is written {key}=[{value}]; a bare comma sweeps, with -m"
    return f"{override}: must be one value; several are a sweep, with -m"


def _mixed(other: str, arguments: list[str]) -> str:
    written = (
        text
        for text in reversed(arguments)
        if text.lstrip("+").partition("=")[0] in ("method", "schema")
    )
    return f"{next(written, 'method')}: must be one method, since each has its own options"


def _signed(key: str, arguments: list[str]) -> str:
    written = written_override(key, arguments)
    return f"+{written}: must be written {written}"


def _not_there(key: str, arguments: list[str]) -> str:
    return f"{written_override(key, arguments)}: no such option"


COMPOSITION: dict[str, Any] = {
    r"Ambiguous value for argument '(.*)'": _swept,
    r"Sweep parameters '(.*)' requires --multirun": _swept,
    r"Sweeping over Hydra's configuration is not supported : '(.*)'": "{}: cannot be swept",
    r"In 'schema/(.*)': ValidationError": _mixed,
    r"Multiple values for (method)": _mixed,
    r"Could not delete(?: from config\.)? '(.*)'(?: does not exist|\. No match)": "~{}: no such option",
    r"force-add of config groups is not supported: '\+\+(.*)'": "++{0}: must be written {0}",
    r"An item is already at '(.*)'": _signed,
    r"Override (.*) looks like a config group override": "{}: no such option",
    r"Could not override '(.*)'. No match": _not_there,
}
