"""A translation: a YAML of LLaMA-Factory, the words that do the same here, and what became of each key."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tuneoff.cli.llamafactory.kinds import (
    format_plain,
    read_number,
    read_share,
    read_switch,
    read_whole,
)
from tuneoff.config import ConfigError
from tuneoff.record.secrets import mask_secrets

# YAML 1.1 takes 1e-4 for a word; LLaMA-Factory's parser makes a number of it.
NUMBER_WITH_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


@dataclass
class KeyLine:
    """What became of a key."""

    key: str
    value: Any
    verdict: str  # taken, ignored, refused, or default: what the file does not say
    text: str  # as what, why, or what it would need

    def describe(self) -> str:
        """Return the line for a terminal."""
        written = self.key
        if self.verdict != "default":
            shown = mask_secrets({self.key: self.value})
            written += f": {format_plain(shown[self.key])}"
        return f"{self.verdict:8} {written:36}  {self.text}"


@dataclass
class Translation:
    """A file's keys, and the words that do the same here."""

    source: Path
    values: dict[str, Any]
    choice: str = ""  # of `method`
    words: dict[str, str] = field(default_factory=dict)  # our keys with their values as typed
    lines: list[KeyLine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    launcher: str | None = None  # the file for `accelerate launch`

    @property
    def stage(self) -> str:
        """What is trained: sft answers, pt text."""
        return str(self.get("stage", "sft"))

    @property
    def refused(self) -> list[KeyLine]:
        """The keys that keep the file from being trained."""
        return [line for line in self.lines if line.verdict == "refused"]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the file's value; null counts as not said."""
        value = self.values.get(key)
        return default if value is None else value

    def number(
        self,
        key: str,
        default: float,
        above: float = -math.inf,
    ) -> float:
        """Return the file's value as a number; what is none is refused, and counts as the default."""
        return self._read(key, default, partial(read_number, above=above))

    def whole(
        self,
        key: str,
        default: int,
        lowest: float = -math.inf,
    ) -> int:
        """Return the file's value as a whole number; what is none is refused, and counts as the default."""
        return self._read(key, default, partial(read_whole, lowest=lowest))

    def share(self, key: str) -> float:
        """Return the file's value as a share, 0 where it says none; what is none is refused."""
        return self._read(key, 0.0, read_share)

    def _read(
        self,
        key: str,
        default: Any,
        read: Callable[[Any], Any],
    ) -> Any:
        try:
            return read(self.get(key, default))
        except ValueError as error:
            self.refuse(key, str(error))
            return default

    def is_on(self, key: str, default: bool = False) -> bool:
        """Return whether a switch is on; what is neither on nor off is refused."""
        return self._read(key, default, read_switch)

    def take(self, key: str, *words: str, note: str = "") -> None:
        """Take a key as words of ours; where the file does not say it, as the default there."""
        for word in words:
            ours, _, value = word.partition("=")
            self.words[ours] = value
        text = " ".join(words)
        if words and note:
            text += f" ({note})"
        elif not words:
            text = note or "as it is here"
        verdict = "taken" if key in self.values else "default"
        self._add(key, verdict, text)

    def ignore(self, key: str, reason: str) -> None:
        """Leave a key out, where the file says it."""
        if key in self.values:
            self._add(key, "ignored", reason)

    def refuse(self, key: str, needed: str) -> None:
        """Refuse the file for a key."""
        self._add(key, "refused", needed)

    def warn(self, sentence: str) -> None:
        """Say what has another meaning there."""
        self.warnings.append(sentence)

    def _add(self, key: str, verdict: str, text: str) -> None:
        if key in [line.key for line in self.refused]:
            return
        self.lines.append(KeyLine(key, self.values.get(key), verdict, text))

    @property
    def unsaid(self) -> list[str]:
        """The file's keys of which nothing was said yet."""
        said = {line.key for line in self.lines}
        return [key for key in self.values if key not in said]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML.

    Raises:
        ConfigError: a file that is not there, or that holds no keys.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError("llamafactory", path, f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # of a date that is none, or no text
        reason = " ".join(str(error).split())
        raise ConfigError("llamafactory", path, f"is no YAML: {reason}") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError("llamafactory", path, "holds no keys")
    return {str(key): value for key, value in content.items()}


class _Loader(yaml.SafeLoader):
    """Reads numbers as LLaMA-Factory's parser does; what is in quotes stays a text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER_WITH_EXPONENT, list("-+0123456789"))
