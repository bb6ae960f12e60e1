"""Splits: which examples are for training, validation and test, by the set's own or by shares."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from tuneoff.config import ConfigError, SingleSet, suggest_nearest
from tuneoff.data.dataset import SPLITS, DataSet
from tuneoff.data.row_formats import Example, Format, find_format, parse_rows
from tuneoff.data.source_rows import Source, SourceRow
from tuneoff.data.unread import UnreadParts
from tuneoff.data.verdicts import find_verdict_columns

SCANNED_ROWS = 1000  # of a set of the hub, by which its columns of numbers are known for verdicts


def read_examples(
    data: SingleSet, source: Source, result: DataSet, unread: UnreadParts
) -> tuple[Format, dict[str, Iterable[Example]]]:
    """Return the set's format, and the examples of each split that there is, in the set's order.

    Args:
        data: which splits, shares and limits.
        source: the set.
        result: where examples without an answer are counted.
        unread: where parts of rows that are not read are counted.

    Raises:
        ConfigError: a split that is not there, a share that gives no rows, or columns of no format.
    """
    rows = assign_splits(data, source.read())
    row_format, rows["train"] = detect_format(data, rows.get("train", iter(())))
    if data.only_for is not None:
        judging = parse_rows(row_format, rows["train"], unread)
        return row_format, limit_examples(data, {data.only_for: judging}, result)
    examples: dict[str, Iterable[Example]] = {}
    for split, members in rows.items():
        examples[split] = parse_rows(row_format, members, unread)
    if "validation" in rows and data.validation_rows is not None:
        allowed = (
            "the set has validation rows itself; data.splits.validation=null leaves them alone"
        )
        raise ConfigError("data.validation_rows", data.validation_rows, allowed)
    # Shares of the training rows stand in for splits that the set does not have.
    shares = {}
    for split in ("validation", "test"):
        if split not in rows:
            shares[split] = getattr(data, f"{split}_share") or 0.0
    takes_rows = "validation" in shares and data.validation_rows is not None
    if takes_rows or any(shares.values()):
        training_examples = list(examples["train"])
        if takes_rows:
            answered = sum(example.is_answered for example in training_examples)
            shares["validation"] = as_share(data, answered)
        examples |= split_examples(training_examples, shares, data.split_seed)
    elif data.split_seed:
        allowed = "fixes which training rows judge, and none do: the set has splits itself"
        raise ConfigError("data.split_seed", data.split_seed, allowed)
    return row_format, limit_examples(data, examples, result)


def detect_format(
    data: SingleSet,
    rows: Iterator[SourceRow],
) -> tuple[Format, Iterator[SourceRow]]:
    """Return the format of training rows, as the first of them says, and all of the rows.

    Raises:
        ConfigError: no row, columns of no format, or a break before an input that no row has.
    """
    first_rows = list(islice(rows, 1))
    if not first_rows:
        raise ConfigError("data.path", data.path, "no training rows")
    row_format = find_format(data.columns, first_rows[0])
    if row_format.name != "text":
        first_rows += islice(rows, count_scanned_rows(data))
        verdict_columns = find_verdict_columns(first_rows, row_format.columns.values())
        row_format = row_format._replace(verdict_columns=verdict_columns)
    if data.input_break == "line":
        column = row_format.columns.get("input")
        if not any(column in row.values for row in first_rows):
            allowed = "is for rows with an input, and these have no such column"
            raise ConfigError("data.input_break", data.input_break, allowed)
        row_format = row_format._replace(input_break="\n")
    return row_format, chain(first_rows, rows)


def count_scanned_rows(data: SingleSet) -> int | None:
    """Return by how many training rows behind the first a set's columns are judged; None where all have been read."""
    if data.streaming:  # no more than are fetched anyway
        return min(SCANNED_ROWS, data.limit or SCANNED_ROWS) - 1
    return SCANNED_ROWS if data.on_hub or data.subset else None


def limit_examples(
    data: SingleSet, examples: dict[str, Iterable[Example]], result: DataSet
) -> dict[str, Iterable[Example]]:
    """Return no more of each split than the limits say, without those in which nobody answers.

    Limits come last, so that a smaller training set is judged by the same rows.
    """
    limited: dict[str, Iterable[Example]] = {}
    for split in SPLITS:
        if split in examples:
            limit = data.limit
            if split != "train":
                limit = data.eval_limit or data.limit
            limited[split] = _take_answered(examples[split], limit, split, result)
    return limited


def as_share(data: SingleSet, examples: int) -> float:
    """Return the share of so many training examples that `data.validation_rows` are.

    Raises:
        ConfigError: they would leave none to train on.
    """
    rows = data.validation_rows or 0
    if rows >= examples * (1 - data.test_share):
        allowed = f"must leave rows to train on, of {examples}"
        raise ConfigError("data.validation_rows", rows, allowed)
    return rows / examples


def assign_splits(
    data: SingleSet, own_splits: dict[str, Iterable[SourceRow]]
) -> dict[str, Iterator[SourceRow]]:
    """Return the rows of the set's own splits under train, validation and test.

    Raises:
        ConfigError: a named split is not there.
    """
    rows: dict[str, Iterator[SourceRow]] = {}
    for split in SPLITS:
        name = getattr(data.splits, split)
        if name in own_splits:
            rows[split] = iter(own_splits[name])
            continue
        # A set may lack validation and test under their usual names.
        must_be_there = split == "train" or name not in (None, split)
        if own_splits and must_be_there:
            there = ", ".join(own_splits)
            hint = suggest_nearest(name, own_splits)
            message = f"{data.path} has no such split; there are {there}{hint}"
            raise ConfigError(f"data.splits.{split}", name, message)
    return rows


def _take_answered(
    examples: Iterable[Example], limit: int | None, split: str, result: DataSet
) -> Iterator[Example]:
    """Yield so many examples at most; those in which nobody answers are counted up to there, and left out."""
    taken = 0
    for example in examples:
        if not example.is_answered:
            result.dropped[split] += 1
            continue
        yield example
        taken += 1
        if taken == limit:
            return


def group_by_question(
    examples: list[Example],
    seed: int,
) -> dict[bytes, list[int]]:
    """Return the indices of examples that ask the same, by a hash whose order is a draw."""
    groups: dict[bytes, list[int]] = {}
    for index, example in enumerate(examples):
        text = f"{seed}/{example.first_question}"
        key = hashlib.sha256(text.encode()).digest()
        groups.setdefault(key, []).append(index)
    return groups


def split_examples(
    examples: list[Example], shares: dict[str, float], seed: int
) -> dict[str, list[Example]]:
    """Divide examples into train and shares of them, each in the order of `examples`.

    Those in which nobody answers count for no share, and go with the next that is answered.

    Args:
        examples: the training examples.
        shares: a number in [0, 1) for each further split.
        seed: of the draw.

    Raises:
        ConfigError: a share that gives no example.
    """
    answered = [example for example in examples if example.is_answered]
    split_of_answered = iter(draw_splits(answered, shares, seed))
    splits = ("train", *shares)
    result: dict[str, list[Example]] = {split: [] for split in splits}
    waiting = []
    for example in examples:
        waiting.append(example)
        if example.is_answered:
            result[next(split_of_answered)] += waiting
            waiting = []
    result["train"] += waiting
    return result


def draw_splits(
    examples: list[Example],
    shares: dict[str, float],
    seed: int,
) -> list[str]:
    """Return the split of each example: train, or one of the shares.

    It depends on what the example asks and on the seed alone, not on its neighbours. Examples that ask the same stay
    together, so that no evaluation prompt is trained on.

    Raises:
        ConfigError: as `split_examples`.
    """
    groups = group_by_question(examples, seed)
    drawn = sorted(groups)
    split_of = ["train"] * len(examples)
    for split, share in shares.items():
        if not share:
            continue
        wanted = max(1, round(share * len(examples)))
        missing = wanted
        for key in list(drawn):
            if not missing:
                break
            # A larger group would make the share larger than what was asked for.
            if len(groups[key]) <= missing:
                drawn.remove(key)
                missing -= len(groups[key])
                for index in groups[key]:
                    split_of[index] = split
        if examples and (missing == wanted or "train" not in split_of):
            message = f"{len(examples)} training rows are too few, or ask the same"
            raise ConfigError(f"data.{split}_share", share, message)
    return split_of
