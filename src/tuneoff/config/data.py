"""What a run is tuned on: where its rows come from, which columns count, and how they become splits and text."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tuneoff.config.options import ConfigError, at_least, check_ranges, one_of, option
from tuneoff.config.paths import ALLOWED, data_files, format_of, list_shipped


def share() -> Any:
    """An option in [0, 1)."""
    return option(0.0, "must be in [0, 1)", lambda value: 0 <= value < 1)


def is_hub_name(place: str) -> bool:
    """Whether a place that is not on this machine can be owner/name."""
    return not place.startswith((".", "/", "~")) and place.count("/") == 1


@dataclass
class Columns:
    """Names of columns. Where none is given, the format is found by the usual ones."""

    messages: str | None = None  # a conversation: role and content, or from and value
    prompt: str | None = None
    input: str | None = None  # what an instruction is about; follows the prompt
    completion: str | None = None
    history: str | None = None  # pairs of a question and an answer that stand before the prompt
    system: str | None = None  # what the system says before a conversation
    text: str | None = None

    def check(self, prefix: str) -> None:
        """Refuse columns that belong to different formats, and half a format."""
        given = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) is not None
        }
        pair = [key for key in given if key in ("prompt", "input", "completion", "history")]
        alone = [key for key in given if key in ("messages", "text")]
        if "system" in given and "text" in given:
            message = f"must be null where {prefix}text is given"
            raise ConfigError(f"{prefix}system", self.system, message)
        if len(alone) + bool(pair) > 1:
            key = alone[-1]
            other = (pair + alone)[0]
            message = f"must be null where {prefix}{other} is given"
            raise ConfigError(f"{prefix}{key}", given[key], message)
        for key in ("prompt", "completion") if pair else ():
            if key not in given:
                raise ConfigError(
                    f"{prefix}{key}", None, f"must be given where {prefix}{pair[0]} is"
                )


@dataclass
class Splits:
    """Names of the set's own splits. A set may lack validation and test, or null leaves its own alone."""

    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"

    def check(self, prefix: str) -> None:
        """Refuse one split in two roles."""
        taken: dict[str | None, str] = {self.train: "train"}
        for key in ("validation", "test"):
            name = getattr(self, key)
            if name is not None and name in taken:
                raise ConfigError(f"{prefix}{key}", name, f"is {prefix}{taken[name]} already")
            taken[name] = key


@dataclass
class Data:
    """A hub set (owner/name), a file or folder (jsonl, json, csv, parquet), or what ships (`tuneoff:NAME`)."""

    name: str = MISSING
    path: str = MISSING
    subset: str | None = (
        None  # of a hub set, or of a folder that is a copy of one: its configuration
    )
    revision: str | None = None  # of a hub set: a commit, branch or tag
    streaming: bool = False  # of a hub set: fetch no more than `limit` rows of a split
    columns: Columns = field(default_factory=Columns)
    splits: Splits = field(default_factory=Splits)
    validation_share: float = share()  # of the training rows, where there is no split of that name
    test_share: float = share()
    split_seed: int = option(
        0, "must be in [0, 2^32)", lambda value: 0 <= value < 2**32
    )  # never the run's seed
    template: str = one_of(
        "auto", "auto", "chat", "plain"
    )  # auto: the tokenizer's chat template if there is one
    end_token: bool = True  # after each text; false where rows are lines of one text
    limit: int | None = at_least(None, 1)  # rows of a split
    eval_limit: int | None = at_least(None, 1)  # of validation and test, where it is not `limit`

    def check(self, prefix: str = "data.") -> None:
        """Refuse ranges, contradictions, and a file that is not there; `prefix` stands before its keys. Asks no hub."""
        check_ranges(self, prefix)
        self.columns.check(f"{prefix}columns.")
        self.splits.check(f"{prefix}splits.")
        self._check_path(prefix)
        if self.validation_share + self.test_share >= 1:
            raise ConfigError(
                f"{prefix}test_share",
                self.test_share,
                "must leave rows to train on beside the other",
            )
        if self.streaming and self.limit is None:
            raise ConfigError(f"{prefix}limit", None, f"must be given where {prefix}streaming=true")
        for key in ("validation_share", "test_share") if self.streaming else ():
            if getattr(self, key):
                raise ConfigError(
                    f"{prefix}{key}", getattr(self, key), f"must be 0 where {prefix}streaming=true"
                )

    def _check_path(self, prefix: str) -> None:
        path = Path(self.path).expanduser()
        if self.path.startswith("tuneoff:"):
            files = list_shipped("corpus/*.jsonl.xz")
            if self.path not in files:
                raise ConfigError(f"{prefix}path", self.path, f"must be {' or '.join(files)}")
        elif path.is_file() and format_of(path) is None:
            raise ConfigError(f"{prefix}path", self.path, f"must end in {ALLOWED}")
        elif not self.path or (
            not path.exists() and (format_of(path) or not is_hub_name(self.path))
        ):
            raise ConfigError(
                f"{prefix}path",
                self.path,
                "must be an existing file or folder, or a hub's owner/name",
            )
        elif path.is_dir() and not data_files(self.path):
            raise ConfigError(f"{prefix}path", self.path, f"holds no file that ends in {ALLOWED}")
        for key in ("subset", "streaming", "revision"):
            if getattr(self, key) and not (self.on_hub or (path.is_dir() and key != "revision")):
                raise ConfigError(
                    f"{prefix}{key}",
                    getattr(self, key),
                    "is for sets of the hub, as path=owner/name",
                )

    @property
    def on_hub(self) -> bool:
        """Whether `path` names a set of the hub."""
        return not self.path.startswith("tuneoff:") and not Path(self.path).expanduser().exists()
