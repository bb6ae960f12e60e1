"""Unread parts: what rows hold that no format here reads, counted so that the log can tell it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tuneoff.data.printable import show_column
from tuneoff.data.source_rows import SourceRow

# A row's own split is read before its format is known.
SPLIT_COLUMN = "split"
LISTED_ROWS = 100  # of the skipped ones, in the record
SHOWN_ROWS = 3  # in the log
# Texts by which a column of text says that it holds nothing.
EMPTY_TEXTS = ("", "[]", "{}", "null")


def is_empty(value: Any) -> bool:
    """Return whether a value holds nothing that could be lost."""
    if isinstance(value, str):
        return value.strip() in EMPTY_TEXTS
    return value is None or value == [] or value == {}


class UnreadParts:
    """Counts of the parts of rows that are not read, and of answers and texts that are empty."""

    def __init__(self, skips_bad_rows: bool = False) -> None:
        """Begin with nothing counted.

        Args:
            skips_bad_rows: whether a row that cannot be read is left out, rather than refused.
        """
        self.skips_bad_rows = skips_bad_rows
        self.bad_rows: list[str] = []  # where each skipped row stands, and what is wrong with it
        self.columns: Counter[str] = Counter()  # rows in which the column holds something
        self.turn_keys: Counter[str] = Counter()  # turns in which the key holds something
        self.empty_answers = 0
        self.empty_texts = 0
        self.special_tokens: Counter[str] = Counter()  # examples that somebody wrote the token in
        # Of the columns that any row may lack: those that held something, by what they hold.
        self.used_columns: set[str] = set()

    def count_columns(self, row: SourceRow, read: Iterable[str]) -> None:
        """Count the columns of a row that hold something and are not read."""
        for name in row.values.keys() - read:
            if name != SPLIT_COLUMN and not is_empty(row.values[name]):
                self.columns[show_column(name)] += 1

    def facts(self) -> dict[str, Any]:
        """Return what the record says: the counts by name, without those that are zero."""
        facts = {
            "columns": dict(sorted(self.columns.items())),
            "turn_keys": dict(sorted(self.turn_keys.items())),
            "empty_answers": self.empty_answers,
            "empty_texts": self.empty_texts,
            "special_tokens": dict(sorted(self.special_tokens.items())),
            "skipped_rows": len(self.bad_rows),
            "skipped": self.bad_rows[:LISTED_ROWS],
        }
        return {name: value for name, value in facts.items() if value}


def add_unread(all_facts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of several `UnreadParts` as those of all their rows."""
    total = UnreadParts()
    skipped_rows = 0
    for facts in all_facts:
        total.columns.update(facts.get("columns", {}))
        total.turn_keys.update(facts.get("turn_keys", {}))
        total.special_tokens.update(facts.get("special_tokens", {}))
        total.empty_answers += facts.get("empty_answers", 0)
        total.empty_texts += facts.get("empty_texts", 0)
        total.bad_rows += facts.get("skipped", [])
        skipped_rows += facts.get("skipped_rows", 0)
    added = total.facts()
    if skipped_rows:  # of which each set lists the first alone
        added["skipped_rows"] = skipped_rows
    return added


def describe_unread(facts: dict[str, Any]) -> str:
    """Return the facts of `UnreadParts` in words; empty where there is nothing to tell."""
    sentences = []
    for key, kind, unit in (("columns", "columns", "rows"), ("turn_keys", "of turns", "turns")):
        counts = facts.get(key, {})
        names = [f"{name} ({count:,} {unit})" for name, count in counts.items()]
        if names:
            sentences.append(f"not read: {kind} {', '.join(names)}")
    if "special_tokens" in facts:
        counts = facts["special_tokens"]
        names = [f"{name} ({count:,} rows)" for name, count in counts.items()]
        sentences.append(f"written in the text, and read as special tokens: {', '.join(names)}")
    if "skipped_rows" in facts:
        listed = "; ".join(facts["skipped"][:SHOWN_ROWS])
        sentences.append(f"skipped rows: {facts['skipped_rows']:,}, as {listed}")
    if "empty_answers" in facts:
        sentences.append(f"empty answers: {facts['empty_answers']:,}")
    if "empty_texts" in facts:
        sentences.append(f"empty texts: {facts['empty_texts']:,}")
    return "; ".join(sentences)
