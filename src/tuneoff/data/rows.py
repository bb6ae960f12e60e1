"""Reads a data set and tokenises it once: rows of token ids that know where their labels begin."""
import gzip
import hashlib
import json
import lzma
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError, Data

SPLITS = ("train", "validation", "test")
# Chosen explicitly and recorded: base models have no chat template, and a bare concatenation leaves no boundary.
TEMPLATE = "### Instruction:\n{prompt}\n\n### Response:\n"


class Row(NamedTuple):
    """One example: token ids, and where the tokens lie that are labels (of a conversation, every answer)."""
    ids: array
    spans: tuple[tuple[int, int], ...]  # [start, end) in order; a start is at least 1, since the first has no context

    @property
    def labels(self) -> int:
        """Number of label tokens: those whose prediction is trained."""
        return sum(end - start for start, end in self.spans)


class Question(NamedTuple):
    """What a model is asked for when it generates: the token ids up to a row's last answer, and that answer's text."""
    prompt: array
    answer: str  # whole, also where the row was cut to max_length


@dataclass
class DataSet:
    """Tokenised rows by split, with what happened on the way.

    `load` makes one of any `config.Data`, a second set (as forgetting needs it) as the first.
    """
    splits: dict[str, list[Row]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)  # of validation and test: each row's last one
    cut: int = 0  # longer than max_length
    dropped: int = 0  # no label token was left after the cut
    template: str | None = None
    fingerprint: str = ""
    example: str = ""

    def questions(self, split: str) -> list[Question]:
        """The rows of `validation` or `test` as questions, in their order; empty where the set is text.

        A row that was dropped (no token of an answer fits into max_length) is no question either.
        """
        return [Question(row.ids[:row.spans[-1][0]], answer)
                for row, answer in zip(self.splits[split], self.answers.get(split, ()), strict=False)]

    def facts(self) -> dict:
        """What the record says about the data."""
        return {"rows": {name: len(rows) for name, rows in self.splits.items()}, "cut": self.cut,
                "dropped": self.dropped, "template": self.template, "fingerprint": self.fingerprint}


def read_lines(path: Path) -> Iterator[dict]:
    """Yield the objects of a jsonl file, plain or compressed (`.gz`, `.xz`).

    Raises:
        ConfigError: for a line that is not a JSON object, with its number.
    """
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                yield row
    except (ValueError, EOFError, OSError, lzma.LZMAError) as error:
        raise ConfigError("data.path", path, f"line {max(1, number)}: {error}") from error


def locate(data: Data) -> Path:
    """The file behind `data.path`; `tuneoff:NAME` ships with the package."""
    if data.path.startswith("tuneoff:"):
        return Path(__file__).parent / "corpus" / f"{data.path.removeprefix('tuneoff:')}.jsonl.xz"
    return Path(data.path).expanduser()


def load(data: Data, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DataSet:
    """Read and tokenise `data`: pairs are cut to `max_length` tokens, text is divided into blocks of it.

    Raises:
        ConfigError: a line that cannot be read, missing columns, or no training rows.
    """
    path = locate(data)
    result = DataSet(splits={name: [] for name in SPLITS})
    pairs: dict[str, list[dict]] = {name: [] for name in SPLITS}
    for number, row in enumerate(read_lines(path), 1):
        if row.get("split", "train") not in SPLITS or not ("text" in row or {"prompt", "completion"} <= row.keys()):
            raise ConfigError("data.path", path, f"line {number}: needs prompt and completion, or text")
        pairs[row.get("split", "train")].append(row)
    for split, rows in pairs.items():
        rows = rows[:data.limit]
        text = bool(rows) and "text" in rows[0]
        answers: list[str] = []
        result.splits[split] = (_blocks(rows, tokenizer, max_length) if text
                                else _pairs(rows, tokenizer, max_length, result, answers))
        if split != "train":
            result.answers[split] = answers
    if not result.splits["train"]:
        raise ConfigError("data.path", path, "no training rows")
    result.example = describe(result.splits["train"][0], tokenizer)
    result.fingerprint = fingerprint(result)
    return result


def _pairs(rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, result: DataSet,
           texts: list[str]) -> list[Row]:
    """One row a pair; the loss is on the completion and its end token alone. `texts` gets the completions."""
    if not rows:
        return []
    result.template = TEMPLATE
    prompts = tokenizer([TEMPLATE.format(prompt=row["prompt"]) for row in rows])["input_ids"]
    answers = tokenizer([row["completion"] for row in rows], add_special_tokens=False)["input_ids"]
    found = []
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id]
        result.cut += len(ids) > max_length
        if len(prompt) >= max_length:
            result.dropped += 1
        else:
            kept = array("i", ids[:max_length])
            found.append(Row(kept, ((max(1, len(prompt)), len(kept)),)))
            texts.append(row["completion"])
    return found


def _blocks(rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    """Blocks of `max_length` tokens from the documents in file order, each ended by the end token."""
    stream: list[int] = []
    for ids in tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"]:
        stream += [*ids, tokenizer.eos_token_id]
    # The first token of a block has no predecessor in it, so it is context only.
    blocks = [stream[start:start + max_length] for start in range(0, len(stream), max_length)]
    return [Row(array("i", block), ((1, len(block)),)) for block in blocks if len(block) > 1]


def fingerprint(data: DataSet) -> str:
    """Sixteen hexadecimal digits: a hash of all token ids and label positions."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for row in data.splits[name]:
            digest.update(repr(row.spans).encode() + row.ids.tobytes())
        digest.update(name.encode())
    return digest.hexdigest()[:16]


def describe(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The decoded example with its trained parts in «»."""
    ids, text, done = list(row.ids), "", 0
    for start, end in row.spans:
        text += f"{tokenizer.decode(ids[done:start])}«{tokenizer.decode(ids[start:end])}»"
        done = end
    return f"{text}{tokenizer.decode(ids[done:])}"
