"""Own YAMLs: the file of --config-name, read before Hydra reads it, and what is wrong with a file that cannot be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import Reader

from tuneoff.cli.allowed_values import KINDS, is_boolean
from tuneoff.config import ABSENT, ConfigError, format_value

# In a defaults list they bring all settings.
BASES = ("config", "experiment")
MOST_STEPS = 10  # from one defaults list to another; YAMLs may name each other in a ring
FIRST_LINE = "`defaults: [config, _self_]`"
# Keys whose value is the name of a YAML in the folder of that name.
CHOSEN = ("method", "model", "data")


def read_own_yaml(path: Path, folders: Sequence[Path]) -> DictConfig:
    """Return what a primary config holds; nothing where its YAML is none, of which Hydra names the line.

    Args:
        folders: where the YAMLs of its defaults list are looked for.

    Raises:
        ConfigError: it cannot be read as text, does not begin with all settings, names a choice in its body, or has
            another value where true or false must be.
    """
    content: object
    try:
        content = OmegaConf.load(path)
    except MarkedYAMLError:
        return OmegaConf.create()
    except (UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(str(path), ABSENT, describe_unreadable(path)) from error
    except OSError as error:
        if error.errno is not None:  # of the disk; else it holds a number alone
            return OmegaConf.create()
        content = None
    if isinstance(content, DictConfig) and brings_settings(content, folders):
        refuse_late_base(content)
        refuse_choices_in_body(content)
        if path.stem not in BASES:
            refuse_wrong_booleans(content)
        return content
    if path.stem in BASES:
        allowed = f"stands in for tuneoff's own {path.name}: it must have another name, for -cn"
    else:
        allowed = f"must begin with {FIRST_LINE}, which brings the settings that it does not name"
    raise ConfigError(str(path), ABSENT, allowed)


def refuse_late_base(content: DictConfig) -> None:
    """Refuse a defaults list in which all settings come after what the YAML itself says, which they would replace.

    Raises:
        ConfigError: with what to write.
    """
    names = [entry for entry in content.defaults if isinstance(entry, str)]
    if "_self_" in names and names.index("_self_") < names.index(names[-1]):
        late = [name for name in names[names.index("_self_") :] if name in BASES]
        if late:
            allowed = f"must have _self_ after {late[0]}, or nothing of this YAML counts: [{late[0]}, _self_]"
            raise ConfigError("defaults", f"[{', '.join(names)}]", allowed)


def list_body_words(content: Mapping) -> list[str]:
    """What a YAML says, as words of a command line, for messages that leave out the value."""
    words = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            words += [f"{key}.{word}" for word in list_body_words(value)]
        elif key != "defaults":
            words.append(f"{key}={format_value(value)}")
    return words


def refuse_choices_in_body(content: DictConfig) -> None:
    """Refuse a method, model or set that a YAML names beside its defaults list: a name alone loads no settings.

    Raises:
        ConfigError: naming the key, and how the defaults list has it.
    """
    for key in CHOSEN:
        value = content.get(key)
        if value is None or isinstance(value, DictConfig):
            continue
        name = "+".join(map(str, value)) if isinstance(value, ListConfig) else str(value)
        if {f"override {key}": name} in list(content.defaults):
            continue
        allowed = (
            f"is chosen in the YAML's defaults list: [config, {{override {key}: {name}}}, _self_]"
        )
        raise ConfigError(key, name, allowed)


def refuse_wrong_booleans(content: DictConfig) -> None:
    """Refuse a number or a word where true or false must be: OmegaConf takes any number, and much else, for a boolean.

    Raises:
        ConfigError: naming the first.
    """
    body: Any = OmegaConf.to_container(content, resolve=False)
    for word in list_body_words(body):
        key, _, value = word.partition("=")
        # Of null Hydra says what is wrong with it.
        is_fine = value.lower() in ("true", "false", "null") or "${" in value
        if not is_fine and is_boolean(key):
            raise ConfigError(key, value, f"must be {KINDS[bool]}")


def brings_settings(content: object, folders: Sequence[Path], depth: int = 0) -> bool:
    """Whether the defaults list of a YAML's content leads to all settings, by way of others or not."""
    defaults = content.get("defaults") if isinstance(content, DictConfig) else None
    if not isinstance(defaults, ListConfig) or depth > MOST_STEPS:
        return False
    for entry in defaults:
        if not isinstance(entry, str):
            continue
        name = entry.partition("@")[0].removeprefix("/").removesuffix(".yaml")
        if name in BASES:
            return True
        if any(_leads_to_settings(folder / f"{name}.yaml", folders, depth) for folder in folders):
            return True
    return False


def _leads_to_settings(path: Path, folders: Sequence[Path], depth: int) -> bool:
    """Whether another YAML of a defaults list is there and brings the settings; one that cannot be read may."""
    if not path.is_file():
        return False
    try:
        content = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError):
        return True  # Hydra will say what is wrong with it
    return brings_settings(content, folders, depth + 1)


def describe_unreadable(path: Path) -> str:
    """What keeps a file from being YAML's text: a byte that is not UTF-8, or a character that YAML has not."""
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        return f"line {line} has byte 0x{byte:02x}, which is not UTF-8; the file must be saved as UTF-8"
    match = Reader.NON_PRINTABLE.search(text)
    if match is None:
        return "cannot be read as YAML"
    line = text.count("\n", 0, match.start()) + 1
    return f"line {line} has character U+{ord(match[0]):04X}, which no YAML may hold"


def find_file_read(error: BaseException) -> str | None:
    """The YAML that Hydra was reading when an error came that does not name it; None where it read none."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") == FileConfigSource.__module__:
            return frame.f_locals.get("full_path")
    return None
