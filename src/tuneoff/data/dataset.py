"""A data set once it is read: rows of token ids that know which of them are labels."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from tuneoff.data.printable import escape_unprintable
from tuneoff.data.unread import describe_unread

SPLITS = ("train", "validation", "test")


class Row(NamedTuple):
    """One example: token ids, and which of them are labels (of a conversation, every answer)."""

    ids: array
    # [start, end) in order; a start is at least 1, since the first token has no context.
    spans: tuple[tuple[int, int], ...]

    @property
    def labels(self) -> int:
        """Number of label tokens: those whose prediction is trained."""
        return sum(end - start for start, end in self.spans)


class Question(NamedTuple):
    """What a model is asked when it generates: the tokens up to a row's last answer."""

    prompt: array
    answer: str  # its text, whole also where the row was cut to max_length
    set_name: str = ""  # among several sets


def _no_rows() -> dict[str, list[Row]]:
    return {split: [] for split in SPLITS}


def _no_numbers(type_code: str) -> Callable[[], dict[str, array]]:
    return lambda: {split: array(type_code) for split in SPLITS}


def _zero_counts() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class DataSet:
    """Tokenised rows by split, with what happened on the way.

    `load_dataset` makes one of any `config.Data`, also of the second set that forgetting needs.
    """

    splits: dict[str, list[Row]] = field(default_factory=_no_rows)
    # The text of each row's last answer, of validation and test; None for a row of text among several sets.
    answers: dict[str, list[str | None]] = field(default_factory=dict)
    # A hash of what each row asks, of conversations.
    asked: dict[str, array] = field(default_factory=_no_numbers("q"))
    # Of several sets their names, and for each row the number of its set among them.
    set_names: tuple[str, ...] = ()
    set_numbers: dict[str, array] = field(default_factory=_no_numbers("H"))
    # Examples longer than max_length.
    cut: dict[str, int] = field(default_factory=_zero_counts)
    # Examples without an answer, or with none left after the cut.
    dropped: dict[str, int] = field(default_factory=_zero_counts)
    # Format, columns and template: how examples became rows.
    recipe: dict = field(default_factory=dict)
    # Parts of rows that no format reads, as `UnreadParts.facts` counts them.
    unread: dict = field(default_factory=dict)
    fingerprint: str = ""
    example: str = ""

    def questions(self, split: str) -> list[Question]:
        """Return the rows of `validation` or `test` as questions, in order; none of a text set.

        A row that was dropped (no token of an answer fits into max_length) is no question either.
        """
        questions = []
        answers = self.answers.get(split, ())
        rows = zip(self.splits[split], answers, self.list_set_names(split), strict=False)
        for row, answer, set_name in rows:
            if answer is not None:
                start_of_answer, _ = row.spans[-1]
                questions.append(Question(row.ids[:start_of_answer], answer, set_name))
        return questions

    def list_set_names(self, split: str) -> list[str]:
        """Return the name of each row's set; of one set alone the empty name."""
        if not self.set_names:
            return [""] * len(self.splits[split])
        return [self.set_names[number] for number in self.set_numbers[split]]

    def rows_by_set(self, split: str) -> dict[str, list[Row]]:
        """Return the rows of a split by the name of their set, of those that have any there."""
        rows_by_set: dict[str, list[Row]] = {}
        set_names = self.list_set_names(split)
        for row, name in zip(self.splits[split], set_names, strict=True):
            rows_by_set.setdefault(name, []).append(row)
        return rows_by_set

    def answer_end_tokens(self, tokenizer: PreTrainedTokenizerBase) -> set[int]:
        """Return the tokens that end an answer of the training rows.

        A chat template ends answers by a token that need not be the tokenizer's own end token. One that is no special
        token may be an ordinary word, at which a row was cut: it counts where all whole rows end with it.
        """
        added = tokenizer.added_tokens_decoder
        special = set(tokenizer.all_special_ids)
        special.update(number for number, token in added.items() if token.special)
        lengths = [len(row.ids) for row in self.splits["train"]]
        longest = max(lengths, default=0)
        last_tokens = set()
        in_all: set[int] | None = None
        for row in self.splits["train"]:
            start, end = row.spans[-1]
            # A named template may have a line break behind it.
            ending = row.ids[max(start, end - 2) : end]
            last_tokens.update(special.intersection(ending[-1:]) or special.intersection(ending))
            if len(row.ids) < longest:  # no other is known to be whole
                in_all = (added.keys() if in_all is None else in_all) & set(ending)
        return last_tokens or in_all or set()

    def facts(self) -> dict:
        """Return what the record says about the data."""
        facts = {
            "rows": {name: len(rows) for name, rows in self.splits.items()},
            "cut": self.cut,
            "dropped": self.dropped,
            **self.recipe,
            "fingerprint": self.fingerprint,
        }
        if self.unread:
            facts["unread"] = self.unread
        return facts

    def extent(self) -> tuple[int, int]:
        """Return the length of the longest row, and the highest token id."""
        longest = 0
        highest = 0
        for rows in self.splits.values():
            for row in rows:
                longest = max(longest, len(row.ids))
                highest = max(highest, max(row.ids))
        return longest, highest

    def summary(self) -> str:
        """Return in one line the rows of each split, what became of others, and what is not read."""
        parts = []
        for split, rows in self.splits.items():
            counted = f"{split} {len(rows):,} rows"
            if self.set_names and rows:
                counted += f" ({self._count_by_set(split)})"
            parts.append(counted + self._describe_losses(split))
        unread = describe_unread(self.unread)
        return ", ".join(parts) + (f"; {unread}" if unread else "")

    def _count_by_set(self, split: str) -> str:
        counts = Counter(self.list_set_names(split))
        return ", ".join(f"{name} {counts[name]:,}" for name in self.set_names)

    def _describe_losses(self, split: str) -> str:
        losses = []
        if self.cut[split]:
            losses.append(f"{self.cut[split]:,} cut to max_length")
        if self.dropped[split]:
            losses.append(f"{self.dropped[split]:,} dropped for no answer within it")
        return f" ({', '.join(losses)})" if losses else ""


def fingerprint_rows(splits: dict[str, list[Row]]) -> str:
    """Return 16 hexadecimal digits: a hash of all token ids and label positions."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for row in splits[split]:
            digest.update(repr(row.spans).encode())
            digest.update(row.ids.tobytes())
        digest.update(split.encode())
    return digest.hexdigest()[:16]


def show_example(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a row's text with its trained parts in «», as a terminal can show it."""
    ids = list(row.ids)
    text = ""
    shown = 0  # tokens that stand in `text` already
    for start, end in row.spans:
        context = tokenizer.decode(ids[shown:start])
        label = tokenizer.decode(ids[start:end])
        text += f"{context}«{label}»"
        shown = end
    text += str(tokenizer.decode(ids[shown:]))
    return escape_unprintable(text)
