"""Known errors of Hydra and OmegaConf: a sentence for each kind, found by its type or by what it says."""

import errno
import re
from dataclasses import fields, is_dataclass
from functools import singledispatch
from pathlib import Path
from traceback import walk_tb
from typing import Any

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
    written_override,
)
from tuneoff.cli.composition_errors import explain_composition_error
from tuneoff.cli.error_texts import find_full_key, first_line
from tuneoff.cli.merge_errors import explain_merge_error, write_nested
from tuneoff.cli.own_yamls import describe_unreadable, find_file_read
from tuneoff.config import Experiment, explain_unknown_key, suggest_nearest
from tuneoff.config.model import BRINGS_SHAPE
from tuneoff.record import describe_os_error

VERBOSE = "must be true or false, or the name of a logger or a list of such, which then print their details"
ONLY_IN_YAML = "is null in this config, and can be given in a YAML alone"


@singledispatch
def explain_known_error(error: BaseException, arguments: list[str]) -> str | None:
    """The line for `error`, or None where an error further in says it better.

    Args:
        arguments: the overrides as they were written, to name the value that the message leaves out.
    """
    return None


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
    # OmegaConf's, of a key below a null
    if not re.match("Unexpected type(: None| for root: NoneType)", str(error)):
        return None
    keys = [frame.f_locals.get("key") or "" for frame, _ in walk_tb(error.__traceback__)]
    key = max(keys, key=len)  # the others are parts of it
    parent = key.rpartition(".")[0]
    reason = f"needs {parent}, and that is null"
    if parent.startswith("model.config"):
        reason = BRINGS_SHAPE
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


@explain_known_error.register
def _(error: ConfigCompositionException, arguments: list[str]) -> str | None:
    return explain_composition_error(str(error), arguments)


def explain_logging_error(chain: list[BaseException], arguments: list[str]) -> str | None:
    """The line for an error in the settings of logs, or None for any other.

    Args:
        chain: the error and what it was raised from, outermost first.
    """
    settings = find_logging_settings(chain)
    if settings is None:
        return None
    verbose = settings["verbose_config"]
    names = list(verbose) if OmegaConf.is_list(verbose) else [verbose]
    if not all(isinstance(name, bool | str) for name in names):
        return f"{written_override('hydra.verbose', arguments)}: {VERBOSE}"
    written = written_override("hydra.job_logging", arguments)
    if "=" not in written:
        written = written_override("hydra.hydra_logging", arguments)
    reason = first_line(chain[-1])
    return f"{written}: must be as Python's logging.config.dictConfig takes it; {reason}"


def find_logging_settings(chain: list[BaseException]) -> dict[str, Any] | None:
    """What Hydra was told of logs when it set them up, or None where the error came from elsewhere."""
    for error in chain:
        for frame, _ in walk_tb(error.__traceback__):
            if frame.f_code.co_name == "configure_log":
                return frame.f_locals
    return None
