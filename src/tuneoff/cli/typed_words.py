"""Typed words: a command line as it was typed, made what Hydra's parser reads: keys side by side, `~` as a folder."""

import os
import re
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from tuneoff.config import ABSENT, ConfigError

# Folders that Hydra makes or that are read as they are written; other paths know `~` themselves.
FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "tuned", "llamafactory")
CONFIG_FLAGS = ("-cd", "-cp", "--config-dir", "--config-path")
# A word KEY=VALUE whose value begins with the home folder, quoted or not.
HOME_WORD = re.compile(r"""([+]{0,2}[\w./@-]+|--config-(?:dir|path))=(['"]?)(~.*?)\2""")
PLAIN_TEXT = re.compile(r"[\w./@+-]+")


def put_keys_together(arguments: list[str]) -> list[str]:
    """Return a command line with its flags before its keys, where a key stands before a flag.

    Hydra takes keys that stand on both sides of a flag for unknown arguments, and words of ours come at the end.

    Raises:
        ConfigError: an unknown flag, in one line, where argparse would print its usage too.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError("command line", ABSENT, f"{message}; see --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = vars(parser.parse_intermixed_args(arguments))
    keys = given.pop("overrides")
    if arguments[len(arguments) - len(keys) :] == keys:
        return arguments
    flags = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        flags.append(f"--{name.replace('_', '-')}")
        if value is not True:
            flags.append(value)
    return [*flags, *keys]


def expand_home(arguments: list[str]) -> list[str]:
    """Return a command line whose values may begin with `~`, which Hydra cannot read, or takes for a folder's name."""
    words: list[str] = []
    for word in arguments:
        match = HOME_WORD.fullmatch(word)
        if match is not None:
            key, quote, value = match.groups()
            values = [value] if quote else value.split(",")
            words.append(_write_home_word(key, values))
        elif words and words[-1] in CONFIG_FLAGS:
            words.append(os.path.expanduser(word))
        else:
            words.append(word)
    return words


def _write_home_word(key: str, values: list[str]) -> str:
    """KEY=VALUE with a value, or several with commas, that Hydra reads as a path."""
    name = key.lstrip("+")
    if name in FOLDER_KEYS or key.startswith("--"):
        values = [os.path.expanduser(path) for path in values]
    if key.startswith("--"):
        return f"{key}={','.join(values)}"
    return f"{key}={','.join(map(quote_text, values))}"


def quote_text(text: str) -> str:
    """A text as Hydra reads it whole."""
    if PLAIN_TEXT.fullmatch(text):
        return text
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
