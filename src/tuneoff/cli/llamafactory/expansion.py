"""llamafactory=FILE on the command line: what the file says, under what else is typed; several files are a sweep."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tuneoff.cli.llamafactory.command import (
    CHOICES,
    list_words,
    write_choice,
    write_command,
)
from tuneoff.cli.llamafactory.quoting import escape_references, quote, quote_text
from tuneoff.cli.llamafactory.translate import translate
from tuneoff.cli.llamafactory.translation import Translation
from tuneoff.config import BUDGETS, ConfigError, find_method_options
from tuneoff.distributed.launch import get_rank, get_world_size

KEY = "llamafactory"
DIR = "hydra.sweep.dir="
# One of each group is given: that of the command line, where it has one.
EXCLUSIVE = (
    BUDGETS,
    ("warmup_ratio", "warmup_steps"),
    ("data.validation_share", "data.validation_rows"),
)


def expand_files(arguments: list[str]) -> list[str]:
    """Return a command line with the words of the files that `llamafactory=` names.

    Raises:
        ConfigError: a file that cannot be read, or a key of it that is refused.
    """
    named = [word for word in arguments if word.startswith(f"{KEY}=")]
    if not named:
        return arguments
    written = named[-1].partition("=")[2].strip("[]")
    files = [Path(name.strip()) for name in written.split(",")]
    others = [word for word in arguments if word not in named]
    translations = [translate(file) for file in files]
    for result in translations:
        refuse_keys(result)
        print_warnings(result)
    is_sweep = any(word in ("-m", "--multirun") for word in others)
    if len(files) > 1 and not is_sweep:
        raise ConfigError(KEY, written, "several files are a sweep, with -m")
    kept = [keep_words(result, others) for result in translations]
    if not is_sweep:
        return [*list_words(kept[0]), *others]
    grids = ",".join(write_grid(words) for words in kept)
    sweep = [f"hydra.sweeper.grids=[{grids}]"]
    if not any(word.startswith(DIR) for word in others):
        sweep.append(f"{DIR}outputs/{KEY}")
    return [*others, *sweep]


def refuse_keys(result: Translation) -> None:
    """Refuse a file for the keys that cannot be taken.

    Raises:
        ConfigError: naming them all, with what the first would need.
    """
    if not result.refused:
        return
    reasons = "; ".join(f"{line.key} {line.text}" for line in result.refused)
    hint = f"python -m tuneoff import {result.source} has a line for each key"
    raise ConfigError(KEY, result.source, f"{reasons} ({hint})")


def print_warnings(result: Translation) -> None:
    """Say what has another meaning there, and what a launcher should do."""
    if get_rank() > 0:
        return
    for sentence in result.warnings:
        print(f"{result.source.name}: {sentence}", file=sys.stderr)
    if result.launcher and get_world_size() == 1:
        print(f"{result.source.name} names a launcher: {write_command(result)}", file=sys.stderr)


def keep_words(result: Translation, others: Sequence[str]) -> dict[str, str]:
    """Return the file's words without those that the command line says itself, in whatever order."""
    given = {word.lstrip("+~").partition("=")[0] for word in others if "=" in word}
    methods = [word.partition("=")[2] for word in others if word.startswith("method=")]
    dropped = set(given)
    for group in EXCLUSIVE:
        if given.intersection(group):
            dropped.update(group)
    if methods and methods[-1] != result.choice:
        # The options of one method are none of another's.
        dropped.update(find_method_options())
    kept = {}
    for key, value in result.words.items():
        parent = key.partition(".")[0]
        replaced_by_choice = parent in given and parent in ("data", "model", "peft")
        if key not in dropped and not replaced_by_choice:
            kept[key] = value
    kept[KEY] = str(result.source)
    return kept


def write_grid(words: dict[str, str]) -> str:
    """Return words as one of Hydra's maps; the run's folder is the sweep's business."""
    entries = []
    for key, value in words.items():
        if key.startswith("hydra."):
            continue
        written = write_choice(value) if key in CHOICES else quote(key, value)
        # Hydra reads a sweeper's options twice, when it resolves them and when it makes the sweeper.
        for _ in range(2):
            written = escape_references(written)
        # As a text: a list in it sweeps nothing before its time.
        entries.append(f"{key}:{quote_text(written)}")
    return "{" + ",".join(entries) + "}"
