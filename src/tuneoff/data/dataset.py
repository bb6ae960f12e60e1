"""What a data set is once it is read: rows of token ids that know which of them are labels."""

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")


class Row(NamedTuple):
    """One example: token ids, and where the tokens lie that are labels (of a conversation, every answer)."""

    ids: array
    spans: tuple[
        tuple[int, int], ...
    ]  # [start, end) in order; a start is at least 1, since the first has no context

    @property
    def labels(self) -> int:
        """Number of label tokens: those whose prediction is trained."""
        return sum(end - start for start, end in self.spans)


class Question(NamedTuple):
    """What a model is asked for when it generates: the token ids up to a row's last answer, and that answer's text."""

    prompt: array
    answer: str  # whole, also where the row was cut to max_length


def _none_yet() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class DataSet:
    """Tokenised rows by split, with what happened on the way.

    `load_dataset` makes one of any `config.Data`, a second set (as forgetting needs it) as the first.
    """

    splits: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    answers: dict[str, list[str]] = field(
        default_factory=dict
    )  # of validation and test: each row's last one
    cut: dict[str, int] = field(default_factory=_none_yet)  # examples longer than max_length
    dropped: dict[str, int] = field(
        default_factory=_none_yet
    )  # examples without an answer, or with none left after it
    made: dict = field(
        default_factory=dict
    )  # format, columns and template: how examples became rows
    fingerprint: str = ""
    example: str = ""

    def questions(self, split: str) -> list[Question]:
        """The rows of `validation` or `test` as questions, in their order; empty where the set is text.

        A row that was dropped (no token of an answer fits into max_length) is no question either.
        """
        return [
            Question(row.ids[: row.spans[-1][0]], answer)
            for row, answer in zip(self.splits[split], self.answers.get(split, ()), strict=False)
        ]

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> set[int]:
        """The tokens that training teaches an answer to end with; a chat template's need not be the tokenizer's own."""
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        return {row.ids[row.spans[-1][1] - 1] for row in self.splits["train"]} & special

    def facts(self) -> dict:
        """What the record says about the data."""
        return {
            "rows": {name: len(rows) for name, rows in self.splits.items()},
            "cut": self.cut,
            "dropped": self.dropped,
            **self.made,
            "fingerprint": self.fingerprint,
        }

    def extent(self) -> tuple[int, int]:
        """The length of the longest row, and the highest token."""
        ids = [row.ids for rows in self.splits.values() for row in rows]
        return max(map(len, ids)), max(map(max, ids))

    def summary(self) -> str:
        """Rows of each split and what became of the others, in a line."""

        def lost(split: str) -> str:
            counts = {
                "cut to max_length": self.cut[split],
                "dropped for no answer within it": self.dropped[split],
            }
            told = ", ".join(f"{count:,} {how}" for how, count in counts.items() if count)
            return f" ({told})" if told else ""

        return ", ".join(
            [f"{name} {len(rows):,} rows{lost(name)}" for name, rows in self.splits.items()]
        )


def fingerprint_rows(splits: dict[str, list[Row]]) -> str:
    """Sixteen hexadecimal digits: a hash of all token ids and label positions."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for row in splits[name]:
            digest.update(repr(row.spans).encode() + row.ids.tobytes())
        digest.update(name.encode())
    return digest.hexdigest()[:16]


def show_example(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The decoded example with its trained parts in «»."""
    ids, text, done = list(row.ids), "", 0
    for start, end in row.spans:
        text += f"{tokenizer.decode(ids[done:start])}«{tokenizer.decode(ids[start:end])}»"
        done = end
    return f"{text}{tokenizer.decode(ids[done:])}"
