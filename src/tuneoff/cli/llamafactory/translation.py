"""A translation: a YAML of LLaMA-Factory, the words that do the same here, and what became of each key."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tuneoff.cli.llamafactory.keys import format_plain
from tuneoff.config import ConfigError
from tuneoff.record.secrets import mask_secrets

# YAML 1.1 takes 1e-4 for a word; LLaMA-Factory's parser makes a number of it.
NUMBER_WITH_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
ON_WORDS = ("true", "1", "yes", "on")
OFF_WORDS = ("false", "0", "no", "off")


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

    def number(self, key: str, default: float) -> float:
        """Return the file's value as a number; what is none is refused.

        A boolean is none.
        """
        value = self.get(key, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            self.refuse(key, "must be a number")
            return default

    def is_on(self, key: str, default: bool = False) -> bool:
        """Return whether a switch is on; what is neither on nor off is refused."""
        word = str(self.get(key, default)).lower()
        if word not in (*ON_WORDS, *OFF_WORDS):
            self.refuse(key, "must be true or false")
        return word in ON_WORDS

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
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError("llamafactory", path, f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("llamafactory", path, f"is no YAML: {reason}") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError("llamafactory", path, "holds no keys")
    values = {}
    for key, value in content.items():
        if isinstance(value, str) and NUMBER_WITH_EXPONENT.fullmatch(value):
            value = float(value)
        values[str(key)] = value
    return values
