"""Known errors of Hydra and OmegaConf: a sentence for each kind, found by its type or by what it says."""

import errno
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import singledispatch
from pathlib import Path
from traceback import walk_tb

from hydra.errors import (
    ConfigCompositionException,
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
from yaml import MarkedYAMLError, YAMLError, safe_load

from tuneoff.cli.allowed_values import (
    describe_allowed,
    describe_setting,
    find_field,
    written_override,
)
from tuneoff.cli.error_texts import find_full_key, first_line
from tuneoff.cli.merge_errors import explain_merge_error, write_nested
from tuneoff.cli.own_yamls import describe_unreadable, find_file_read
from tuneoff.config import Experiment, explain_unknown_key, suggest_nearest
from tuneoff.config.model import BRINGS_SHAPE
from tuneoff.record import describe_os_error

ONLY_IN_YAML = "is null in this config, and can be given in a YAML alone"


@singledispatch
def explain_known_error(error: BaseException, arguments: list[str]) -> str | None:
    """The line for `error`, or None where an error further in says it better.

    Args:
        arguments: the overrides as they were written, to name the value that the message leaves out.
    """
    return None


# ---------------------------------------------------------------- by type
@explain_known_error.register
def _(error: OverrideParseException, arguments: list[str]) -> str:
    key, equals, _ = error.override.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[\w./@-]+", key):
        return f"{error.override}: must be written key=value"
    quoted = f"letters beyond a to z and signs such as ~ # ' need quotes, as in '{key}=\"…\"'"
    return f"{error.override}: the value cannot be read; {quoted}"


@explain_known_error.register
def _(error: MissingConfigException, arguments: list[str]) -> str:
    file = error.missing_cfg_file or ""
    if error.options:
        group, _, name = file.rpartition("/")
        nearest = suggest_nearest(name, error.options)
        return f"{group}={name}: must be one of {', '.join(error.options)}{nearest}"
    if "primary config '" in first_line(error):
        return f"--config-name={file}: no such file in conf, nor in the folder of --config-dir"
    return first_line(error)


@explain_known_error.register
def _(error: SearchPathException, arguments: list[str]) -> str:
    folder = re.search(r"'(.*)'", str(error))
    if folder is None:
        return first_line(error)
    return f"--config-dir={folder[1]}: must be an existing folder"


@explain_known_error.register
def _(error: ValidationError, arguments: list[str]) -> str | None:
    if not error.full_key:
        return explain_merge_error(first_line(error), arguments)
    allowed = describe_allowed(error.object_type, error.key)
    allowed = allowed or describe_setting(error.full_key) or first_line(error)
    return f"{written_override(error.full_key, arguments)}: {allowed}"


@explain_known_error.register(ConfigAttributeError)
@explain_known_error.register(ConfigKeyError)
def _(error: OmegaConfBaseException, arguments: list[str]) -> str | None:
    if not error.full_key:
        return None
    known = []
    if is_dataclass(error.object_type):
        known = [item.name for item in fields(error.object_type)]
    elif OmegaConf.is_dict(error.parent_node):
        known = list(map(str, error.parent_node))
    method = OmegaConf.select(error.parent_node._get_root(), "method")
    reason = explain_unknown_key(error.full_key, known, method)
    if "." in str(error.key):  # of a YAML; on the command line it is what it says
        reason = f"must be nested in a YAML, {write_nested(str(error.key))}"
    return f"{written_override(error.full_key, arguments)}: {reason}"


@explain_known_error.register
def _(error: ConfigTypeError, arguments: list[str]) -> str | None:
    if "does not support deletion" in str(error):
        return f"~{error.full_key}: cannot be removed"
    if "Cannot merge DictConfig with ListConfig" in str(error):
        written = written_override(error.full_key or "", arguments)
        return f"{written}: must be keys with values, as in {error.full_key}.KEY=VALUE"
    return None


@explain_known_error.register
def _(error: OverflowError, arguments: list[str]) -> str | None:
    key = find_full_key(error)
    return f"{written_override(key, arguments)}: is too large a number" if key else None


@explain_known_error.register
def _(error: AttributeError, arguments: list[str]) -> str | None:
    key = find_full_key(error)
    # OmegaConf cannot put several keys at once below a null.
    if key is None or "object_type=NoneType" not in str(error):
        return None
    reason = BRINGS_SHAPE if key == "model.config" else ONLY_IN_YAML
    return f"{written_override(key, arguments)}: {reason}"


@explain_known_error.register
def _(error: MissingMandatoryValue, arguments: list[str]) -> str | None:
    return f"{error.full_key}: must be given" if error.full_key else None


@explain_known_error.register
def _(error: InterpolationResolutionError, arguments: list[str]) -> str | None:
    prefix = r"^\w+ raised while resolving interpolation: "
    reason = re.sub(prefix, "", first_line(error)).strip("\"'")
    written = written_override(error.full_key or "", arguments)
    if "=" not in written:
        # Hydra resolves the choice of a group under a stand-in key.
        interpolated = [text for text in arguments if "${" in text]
        written = next(iter(interpolated), written)
    return f"{written}: {reason}"


@explain_known_error.register
def _(error: MarkedYAMLError, arguments: list[str]) -> str:
    mark = error.problem_mark
    if mark is None:
        return first_line(error)
    return f"{mark.name}, line {mark.line + 1}: {error.problem}"


@explain_known_error.register(UnicodeDecodeError)
@explain_known_error.register(YAMLError)
def _(error: UnicodeDecodeError | YAMLError, arguments: list[str]) -> str:
    path = find_file_read(error)
    return f"{path}: {describe_unreadable(Path(path))}" if path else first_line(error)


@explain_known_error.register
def _(error: UserWarning, arguments: list[str]) -> str:
    folder = re.search(r"path=(.*) is not available", str(error))
    if folder is None:
        return first_line(error)
    return f"hydra.searchpath: {folder[1]} must be an existing folder"


@explain_known_error.register
def _(error: RuntimeError, arguments: list[str]) -> str | None:
    plugin = re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_([a-z]+)_", str(error))
    if plugin is None:
        return None
    return f"hydra: needs the extra {plugin[1]}: pip install 'tuneoff[{plugin[1]}]'"


@explain_known_error.register
def _(error: AssertionError, arguments: list[str]) -> str | None:
    if "Unexpected type for root: NoneType" not in str(error):  # OmegaConf's, of a key below a null
        return None
    keys = [frame.f_locals.get("key") for frame, _ in walk_tb(error.__traceback__)]
    key = next(filter(None, reversed(keys)), "")
    parent = key.rpartition(".")[0]
    reason = BRINGS_SHAPE if parent == "model.config" else f"needs {parent}, and that is null"
    return f"{written_override(key, arguments)}: {reason}"


@explain_known_error.register
def _(error: OSError, arguments: list[str]) -> str:
    if error.errno == errno.ENAMETOOLONG and arguments:
        # Hydra looks for a file of the name of a group's choice, or of a key.
        longest = max(arguments, key=len)
        return f"{longest}: is longer than any name of a config or an option"
    path = find_file_read(error)
    if error.errno is None and path is not None:
        return f"{path}: must hold keys with values"
    for text in arguments:
        key, _, folder = text.partition("=")
        is_inside = folder != "" and str(error.filename).startswith(folder)
        if key in ("hydra.run.dir", "hydra.sweep.dir") and is_inside:
            return f"{text}: {error.strerror}"
    return describe_os_error(error)


@explain_known_error.register
def _(error: ValueError, arguments: list[str]) -> str | None:
    if not str(error).startswith("Config group override"):
        return None
    nested = [item.name for item in fields(Experiment) if is_dataclass(item.type)]
    groups = ("method", *nested, "forgetting.data", "")
    chosen = []
    not_text = []
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or key not in groups:
            continue
        chosen.append(text)
        if not isinstance(safe_load(value), str):
            not_text.append(text)
    wrong = next(iter([*not_text, *chosen]), "")
    if wrong.startswith("="):
        return f"{wrong}: must be written key=value"
    return f"{wrong}: must be the name of a config"


# ---------------------------------------------------------------- by what Hydra says of a composition
@explain_known_error.register
def _(error: ConfigCompositionException, arguments: list[str]) -> str | None:
    for pattern, explain in COMPOSITION_ERRORS.items():
        match = re.search(pattern, str(error))
        if match:
            return explain(match[1], arguments)
    return None


def explain_swept(override: str, arguments: list[str]) -> str:
    """Several values in a single run: perhaps a list was meant."""
    key, _, value = override.partition("=")
    item = find_field(key)
    if item is not None and item.metadata.get("names"):
        return f"{override}: a list is written {key}=[{value}]; a bare comma sweeps, with -m"
    return f"{override}: must be one value; several are a sweep, with -m"


def explain_swept_hydra(override: str, arguments: list[str]) -> str:
    """Values with a comma for a key of Hydra's own, such as the rates that a tuning tries."""
    key, _, values = override.partition("=")
    return f"{override}: cannot be swept; a list for the sweeper is one text: \"{key}='{values}'\""


def explain_two_methods(schema: str, arguments: list[str]) -> str:
    """Two methods in one run."""
    written = "method"
    for text in arguments:
        if text.lstrip("+").partition("=")[0] in ("method", "schema"):
            written = text
    return f"{written}: must be one method, since each has its own options"


def explain_plus(key: str, arguments: list[str]) -> str:
    """A `+` before a key that is there."""
    written = written_override(key, arguments)
    return f"+{written}: must be written {written}"


def explain_no_such_option(key: str, arguments: list[str]) -> str:
    """A key that is not there."""
    return f"{written_override(key, arguments)}: no such option"


# What Hydra says, with the part that matters as a group, and the line that we make of it.
COMPOSITION_ERRORS: dict[str, Callable[[str, list[str]], str]] = {
    r"Ambiguous value for argument '(.*)'": explain_swept,
    r"Sweep parameters '(.*)' requires --multirun": explain_swept,
    r"Sweeping over Hydra's configuration is not supported : '(.*)'": explain_swept_hydra,
    r"In 'schema/(.*)': ValidationError": explain_two_methods,
    r"Multiple values for (method)": explain_two_methods,
    r"Could not delete(?: from config\.)? '(.*)'(?: does not exist|\. No match)": (
        lambda key, _: f"~{key}: no such option"
    ),
    r"Could not delete from config\. The value of '(.*)' is": (
        lambda key, _: f"~{key}: cannot be removed"
    ),
    r"force-add of config groups is not supported: '\+\+(.*)'": (
        lambda override, _: f"++{override}: must be written {override}"
    ),
    r"An item is already at '(.*)'": explain_plus,
    r"Override (.*) looks like a config group override": (
        lambda override, _: f"{override}: no such option"
    ),
    r"Could not override '(.*)'. No match": explain_no_such_option,
}
