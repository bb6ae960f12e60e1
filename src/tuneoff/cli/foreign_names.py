"""Foreign names: a command line in the words of other programs is answered with the one that works here."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from tuneoff.cli.llamafactory.launchers import find_launcher_file
from tuneoff.config import ABSENT, ConfigError, Experiment, find_method_options
from tuneoff.config.elsewhere import NEEDLESS, describe_assumption, list_our_words
from tuneoff.config.paths import format_of, is_file, is_folder
from tuneoff.config.registered import find_alias

FLAGS = re.compile(
    r"--(?:cfg|config|hydra|help|multirun|info|package|run|resolve|shell|version|exp)"
)


def refuse_foreign_names(arguments: Sequence[str]) -> None:
    """Refuse a command line that uses names from elsewhere, and say what to write.

    Raises:
        ConfigError: naming the first such word, and the whole command that works.
    """
    known = {*Experiment.__dataclass_fields__, *find_method_options()}
    words: list[str] = []
    foreign: list[str] = []
    for word in join_flags(arguments):
        ours = translate_word(word, known)
        if ours is None:
            words.append(word)
        else:
            foreign.append(word)
            words += ours
    if not foreign:
        return
    program = choose_program(foreign)
    command = shlex.join([*program, *keep_last_method(words)])
    hints = []
    for word in foreign:
        written, _, value = word.removeprefix("--").partition("=")
        key = written.replace("-", "_")
        assumption = describe_assumption(key, value or "true")
        is_off = not translate_word(word, known)
        if key in NEEDLESS:
            hints.append(f"{key} is left out: {NEEDLESS[key]}")
        elif assumption is not None and not is_off:
            hints.append(f"{key}: {assumption}")
    behind = f" ({'; '.join(hints)})" if hints else ""
    raise ConfigError(
        foreign[0], ABSENT, f"is written otherwise here; this works: {command}{behind}"
    )


def choose_program(foreign: Sequence[str]) -> list[str]:
    """What starts the command: a launcher where `deepspeed=` or `fsdp=` asks for one."""
    for word in foreign:
        key, _, value = word.removeprefix("--").partition("=")
        file = find_launcher_file(key, value)
        if file is not None:
            return ["accelerate", "launch", "--config_file", file, "train.py"]
    return ["python", "train.py"]


def join_flags(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, with `--lr 1e-4` and `--lr=1e-4` as `--lr=1e-4`; Hydra's flags stay."""
    words: list[str] = []
    takes_value = False
    for word in arguments:
        if takes_value and not word.startswith("-") and "=" not in word:
            words[-1] += f"={word}"
            takes_value = False
            continue
        is_foreign_flag = re.fullmatch(r"--[A-Za-z][\w.-]*(=.*)?", word) and not FLAGS.match(word)
        takes_value = bool(is_foreign_flag) and "=" not in word
        words.append(word)
    return words


def translate_word(word: str, known: set[str]) -> list[str] | None:
    """What a word is here; None for one that is ours already, or nobody's."""
    is_flag = word.startswith("--") and not FLAGS.match(word)
    key, equals, value = word.removeprefix("--").partition("=")
    if is_flag:
        key = key.replace("-", "_")
        value = value if equals else "true"
        ours = list_our_words(key, value)
        if ours is None and key in known:
            return [f"{key}={value}"]
        return ours
    # A bare word is the name of a YAML, whatever lies in the working folder.
    is_path = "/" in value and "," not in value
    if key == "model" and is_path:
        return [f"model.path={value}"]
    if key == "data" and (names_file(value) or (is_path and is_there(value))):
        return ["data=json", f"data.path={value}"]
    alias = find_alias(value) if key == "method" else None
    if alias is not None:
        return alias
    if not equals or key in known:
        return None
    return list_our_words(key, value)


def is_there(value: str) -> bool:
    """Whether a word is the path of a file or a folder."""
    return is_file(value) or is_folder(value)


def names_file(value: str) -> bool:
    """Whether a word ends as a file of rows does."""
    return format_of(Path(value)) is not None


def keep_last_method(words: list[str]) -> list[str]:
    """The words with one method: what names it most closely (`use_galore` after `finetuning_type`) comes last."""
    methods = [word for word in words if word.startswith("method=")]
    return [word for word in words if word not in methods[:-1]]
