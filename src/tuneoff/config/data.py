"""Settings of a data set: where rows come from, which columns count, and how they become splits and text."""

import os
import re
from dataclasses import dataclass, field, fields

from omegaconf import MISSING

from tuneoff.config.options import (
    ConfigError,
    above,
    at_least,
    check_ranges,
    fraction,
    one_of,
    option,
)
from tuneoff.config.paths import (
    ALLOWED,
    data_files,
    exists,
    expand_user,
    format_of,
    holds_home,
    is_file,
    is_folder,
    is_hub_name,
    is_shipped,
    list_shipped_sets,
)
from tuneoff.config.templates import NAMED_TEMPLATES

# The columns of a format that has several.
PAIR_COLUMNS = ("prompt", "input", "completion", "history")
# What only a set of the hub has.
HUB_SETTINGS = ("subset", "streaming", "revision")
# What takes some of the training rows for a split.
SHARES = ("validation_share", "validation_rows", "test_share")
# What `datasets` takes for a pattern, or for two addresses, in the path of a folder.
PATTERN_SIGNS = re.compile(r"[*?\[]|::")


@dataclass
class Columns:
    """Names of columns. Where none is given, the format is found by the usual ones."""

    messages: str | None = None
    """The column of a conversation: turns with role and content, or from and value."""
    prompt: str | None = None
    """The column of the prompt."""
    input: str | None = None
    """The column of what an instruction is about; its text follows the prompt."""
    completion: str | None = None
    """The column of the answer."""
    history: str | None = None
    """The column of pairs of a question and an answer that stand before the prompt."""
    system: str | None = None
    """The column of what the system says before a conversation."""
    text: str | None = None
    """The column of plain text, all of which is trained on."""

    def check(self, prefix: str) -> None:
        """Refuse columns that belong to different formats, and half a format."""
        names = [item.name for item in fields(self)]
        given = [name for name in names if getattr(self, name) is not None]
        pair = [key for key in given if key in PAIR_COLUMNS]
        alone = [key for key in given if key in ("messages", "text")]
        if len(alone) + bool(pair) > 1:
            key = alone[-1]
            other = pair[0] if pair else alone[0]
            allowed = f"must be null where {prefix}{other} is given"
            raise ConfigError(f"{prefix}{key}", getattr(self, key), allowed)
        if self.system is not None and self.text is not None:
            allowed = f"must be null where {prefix}text is given"
            raise ConfigError(f"{prefix}system", self.system, allowed)
        if not pair:
            return
        for key in ("prompt", "completion"):
            if key not in given:
                allowed = f"must be given where {prefix}{pair[0]} is"
                raise ConfigError(f"{prefix}{key}", None, allowed)


@dataclass
class Splits:
    """Names of the set's own splits. A set may lack validation and test, or null leaves its own alone."""

    train: str = "train"
    """The name of the split to train on."""
    validation: str | None = "validation"
    """The name of the validation split; null leaves the set's own alone."""
    test: str | None = "test"
    """The name of the test split; null leaves the set's own alone."""

    def check(self, prefix: str) -> None:
        """Refuse one split in two roles."""
        taken: dict[str | None, str] = {self.train: "train"}
        for key in ("validation", "test"):
            name = getattr(self, key)
            if name is not None and name in taken:
                raise ConfigError(f"{prefix}{key}", name, f"is {prefix}{taken[name]} already")
            taken[name] = key


@dataclass
class SingleSet:
    """A hub set (owner/name), a file or folder (jsonl, json, csv, parquet), or what ships (`tuneoff:NAME`)."""

    name: str = ""
    """The set's name in tables and records; among several sets it is its key in data.sets."""
    path: str = MISSING
    """A hub set (owner/name), a file or folder (jsonl, json, csv, parquet), or what ships (tuneoff:NAME)."""
    subset: str | None = None
    """The configuration of a hub set, or of a folder that is a copy of one."""
    revision: str | None = None
    """A commit, branch or tag of a hub set."""
    streaming: bool = False
    """Fetch no more than data.limit rows of a split from the hub."""
    columns: Columns = field(default_factory=Columns)
    """Which columns count; where none is given, the format is found by the usual names."""
    input_break: str = one_of("empty_line", "empty_line", "line")
    """What stands between a prompt and its input: an empty line, or a line break alone."""
    splits: Splits = field(default_factory=Splits)
    """The names of the set's own splits."""
    validation_share: float | None = fraction(None)
    """The share of the training rows to validate on, where there is no validation split; 0 then trains without any, and
    null refuses to."""
    validation_rows: int | None = at_least(None, 1)
    """The same as a number of rows, in place of validation_share."""
    test_share: float = fraction(0.0)
    """The share of the training rows to test on, where there is no test split."""
    split_seed: int = option(0, "must be in [0, 2^32)", lambda value: 0 <= value < 2**32)
    """Fixes which rows these shares are; never the run's seed, so that all seeds have the same splits."""
    on_bad_row: str = one_of("refuse", "refuse", "skip")
    """Of a row that no format can read, as one with a tool's turn, or that the chat template refuses: skip leaves it
    out, counted and listed."""
    template: str = one_of("auto", "auto", "chat", "plain", *NAMED_TEMPLATES)
    """How a conversation becomes text: by the tokenizer's chat template, plain headings, a template of this name, or
    auto: chat where there is one."""
    default_system: str | None = option(None, "must not be empty", bool)
    """What the system says before a conversation in which it says nothing; null takes the template's own words."""
    train_on: str = one_of("answers", "answers", "last_answer", "all")
    """What of a conversation is trained: every answer, the last one, or all, prompts too. It is judged by answers."""
    end_token: bool = True
    """Put the end token after each text; false where rows are lines of one text."""
    only_for: str | None = one_of(None, "validation", "test")
    """Of several sets: one that judges alone, by the rows of its training split; null trains on it."""
    limit: int | None = at_least(None, 1)
    """Rows of a split at most."""
    eval_limit: int | None = at_least(None, 1)
    """Rows of validation and test at most; null takes data.limit."""
    default_epochs: float = above(3.0, 0)
    """The budget on this set where none is given: passes over its training rows."""
    default_steps: int | None = at_least(None, 1)
    """The same in optimizer steps, instead of epochs."""
    default_max_length: int = at_least(1024, 2)
    """max_length on this set where none is given."""
    weight: float = above(1.0, 0)
    """Rows of this set for each row of one of weight 1, where several are interleaved."""

    def check(self, prefix: str = "data.") -> None:
        """Refuse ranges, contradictions, and a file that is not there; `prefix` stands before its keys. Asks no hub."""
        check_ranges(self, prefix)
        self.columns.check(f"{prefix}columns.")
        self.splits.check(f"{prefix}splits.")
        self._check_path(prefix)
        self._check_hub_settings(prefix)
        if (self.validation_share or 0) + self.test_share >= 1:
            allowed = "must leave rows to train on beside the other"
            raise ConfigError(f"{prefix}test_share", self.test_share, allowed)
        if self.streaming:
            self._check_streaming(prefix)

    def _check_path(self, prefix: str) -> None:
        """Refuse a path where no rows can be."""
        key = f"{prefix}path"
        if is_shipped(self.path):
            shipped = list_shipped_sets()
            if self.path not in shipped:
                raise ConfigError(key, self.path, f"must be {' or '.join(shipped)}")
            return
        path = expand_user(self.path)
        there = bool(self.path) and exists(path)
        if is_file(path) and format_of(path) is None:
            raise ConfigError(key, self.path, f"must end in {ALLOWED}")
        named_like_file = format_of(path) is not None
        on_hub = not there and is_hub_name(self.path) and not named_like_file
        if not (is_file(path) or (there and is_folder(path)) or on_hub):
            allowed = "must be an existing file or folder, or a hub's owner/name"
            raise ConfigError(key, self.path, allowed)
        if there and holds_home(path):
            allowed = "must hold data alone: in it lies your home folder, all of whose files would be read"
            raise ConfigError(key, self.path, allowed)
        if not on_hub and not data_files(path):
            raise ConfigError(key, self.path, f"holds no file that ends in {ALLOWED}")

    def _check_hub_settings(self, prefix: str) -> None:
        """Refuse what only a set of the hub has, or a folder that is a copy of one."""
        in_folder = not is_shipped(self.path) and is_folder(expand_user(self.path))
        for key in HUB_SETTINGS:
            value = getattr(self, key)
            may_be = self.on_hub or (in_folder and key != "revision")
            if value and not may_be:
                allowed = "is for sets of the hub, as path=owner/name"
                raise ConfigError(f"{prefix}{key}", value, allowed)
        if not (in_folder and (self.subset or self.streaming)):
            return
        if PATTERN_SIGNS.search(os.path.realpath(expand_user(self.path))):
            allowed = "its full path holds one of * ? [ or ::, which `datasets` reads as a pattern; rename the folder"
            raise ConfigError(f"{prefix}path", self.path, allowed)

    def _check_streaming(self, prefix: str) -> None:
        """Refuse a stream without an end, and shares of what is not counted before it is read."""
        if self.limit is None:
            raise ConfigError(f"{prefix}limit", None, f"must be given where {prefix}streaming=true")
        for key in SHARES:
            if getattr(self, key):
                off = "0" if key.endswith("share") else "null"
                allowed = f"must be {off} where {prefix}streaming=true"
                raise ConfigError(f"{prefix}{key}", getattr(self, key), allowed)

    def takes_training_rows(self, split: str) -> bool:
        """Whether some of the training rows stand in for a split (validation or test) that the set lacks."""
        if self.only_for is not None:
            return False  # all of them judge
        if split == "validation" and self.validation_rows is not None:
            return True
        return bool(getattr(self, f"{split}_share"))

    def goes_without_validation(self) -> bool:
        """Whether the settings ask to train without validation rows, where the set has none itself."""
        if self.only_for is not None:
            return True
        if self.takes_training_rows("validation"):
            return False
        return self.validation_share == 0 or self.splits.validation is None

    @property
    def ships(self) -> bool:
        """Whether the set ships with the package; each of those has rows of every split."""
        return is_shipped(self.path)

    @property
    def on_hub(self) -> bool:
        """Whether `path` names a set of the hub."""
        return not is_shipped(self.path) and not exists(expand_user(self.path))
