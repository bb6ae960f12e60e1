"""From settings to tokenised rows: read, put into splits, render, cut, and kept for the next run."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError, Data, suggest_nearest
from tuneoff.data import cache
from tuneoff.data.dataset import SPLITS, DataSet, Row, fingerprint_rows, show_example
from tuneoff.data.row_formats import Example, Format, find_format, parse_rows
from tuneoff.data.source_rows import Source, SourceRow
from tuneoff.data.sources import open_source
from tuneoff.data.templates import ChatTemplate, PlainTemplate, choose_template

AT_ONCE = 1000  # examples that are tokenised together


def load_dataset(data: Data, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DataSet:
    """Read and tokenise `data`: conversations are cut to `max_length` tokens, text is divided into blocks of it.

    What was tokenised before, of the same content by the same settings and tokenizer, comes from the cache.

    Raises:
        ConfigError: what cannot be read or is not there, a template that does not suit, or no training rows.
    """
    source, template = open_source(data), choose_template(data, tokenizer)
    path = (
        cache.cache_path(source.key, data, template.text, tokenizer, max_length)
        if source.key
        else None
    )
    result = cache.read_cached_set(path) if path else None
    if result is None:
        result = tokenize_dataset(data, source, template, max_length)
        if path:
            cache.write_cached_set(path, result)
    result.example = show_example(result.splits["train"][0], tokenizer)
    return result


def tokenize_dataset(
    data: Data, source: Source, template: PlainTemplate | ChatTemplate, max_length: int
) -> DataSet:
    """Make the rows of all splits.

    Raises:
        ConfigError: as `load_dataset`.
    """
    result = DataSet()
    form, content = read_examples(data, source, result)
    for split, found in content.items():
        if form.name == "text":
            result.splits[split] = list(
                _blocks(found, template.tokenizer, max_length, data.end_token)
            )
            continue
        for row, answer in _conversations(found, template, max_length, split, result):
            result.splits[split].append(row)
            if split != "train":
                result.answers.setdefault(split, []).append(answer)
    if not result.splits["train"]:
        cut = result.cut["train"]
        why = ": no row has an answer" if result.dropped["train"] else ""
        why = f": no answer of {cut} examples begins within max_length={max_length}" if cut else why
        raise ConfigError("data.path", data.path, f"no training rows{why}")
    chosen = (
        {} if form.name == "text" else {"template": template.name, "template_text": template.text}
    )
    result.made = {"format": form.name, "columns": form.columns, **chosen}
    result.fingerprint = fingerprint_rows(result.splits)
    return result


# ---------------------------------------------------------------- splits
def read_examples(
    data: Data, source: Source, result: DataSet
) -> tuple[Format, dict[str, Iterable[Example]]]:
    """The set's format, and the examples of each split that there is, in the set's order.

    Raises:
        ConfigError: a split that is not there, a share that gives no rows, or columns of no format.
    """
    splits, names = source.read(), {role: getattr(data.splits, role) for role in SPLITS}
    for role, name in names.items() if splits else ():
        if name not in splits and (role == "train" or name not in (None, role)):
            raise ConfigError(
                f"data.splits.{role}",
                name,
                f"{data.path} has no such split; there are "
                f"{', '.join(splits)}{suggest_nearest(name, splits)}",
            )
    found = {role: iter(splits[name]) for role, name in names.items() if name in splits}
    first = next(found.get("train", iter(())), None)
    if first is None:
        raise ConfigError("data.path", data.path, "no training rows")
    form = find_format(data.columns, first)
    found["train"] = chain([first], found["train"])
    content: dict[str, Iterable[Example]] = {
        role: _answered(form, rows, role, result) for role, rows in found.items()
    }
    shares = {role: getattr(data, f"{role}_share") for role in SPLITS[1:] if role not in found}
    if any(shares.values()):
        content |= split_examples(list(content["train"]), shares, data.split_seed)
    limits = {
        role: data.limit if role == "train" else data.eval_limit or data.limit for role in SPLITS
    }
    return form, {role: islice(content[role], limits[role]) for role in SPLITS if role in content}


def _answered(
    form: Format, rows: Iterable[SourceRow], role: str, result: DataSet
) -> Iterator[Example]:
    """The examples but those in which nobody answers, which are counted."""
    for example in parse_rows(form, rows):
        if example.messages or form.name == "text":
            yield example
        else:
            result.dropped[role] += 1


def split_examples(
    rows: list[Example], shares: dict[str, float], seed: int
) -> dict[str, list[Example]]:
    """Split rows into train and shares of them, each in the order of `rows`.

    A row's place depends on what it asks and on the seed alone, not on its neighbours; rows that ask the same stay
    together, so that no evaluation prompt is trained on.

    Raises:
        ConfigError: a share that gives no row.
    """
    groups: dict[bytes, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(hashlib.sha256(f"{seed}/{row.asks}".encode()).digest(), []).append(index)
    roles, drawn = ["train"] * len(rows), sorted(groups)
    for role, share in shares.items():
        wanted = max(1, round(share * len(rows))) if share else 0
        left = wanted
        for key in list(drawn):
            if not left:
                break
            if len(groups[key]) <= left:  # else it would not be the share that was asked for
                drawn.remove(key)
                left -= len(groups[key])
                for index in groups[key]:
                    roles[index] = role
        if rows and share and (left == wanted or "train" not in roles):
            raise ConfigError(
                f"data.{role}_share",
                share,
                f"{len(rows)} training rows are too few, or ask the same",
            )
    return {
        name: [row for row, role in zip(rows, roles, strict=True) if role == name]
        for name in ("train", *shares)
    }


# ---------------------------------------------------------------- rows
def _conversations(
    found: Iterable[Example],
    template: PlainTemplate | ChatTemplate,
    max_length: int,
    split: str,
    result: DataSet,
) -> Iterator[tuple[Row, str]]:
    """A row for each conversation, and the last answer of which it holds a token; the loss is on answers alone."""
    found = iter(found)
    while some := list(islice(found, AT_ONCE)):
        for example, (ids, spans) in zip(some, template.encode(some), strict=True):
            result.cut[split] += len(ids) > max_length
            cut = [(max(1, start), min(end, max_length)) for start, end in spans]
            kept = [place for place, (start, end) in enumerate(cut) if start < end]
            if not kept:
                result.dropped[split] += 1
                continue
            answers = [
                message["content"] for message in example.messages if message["role"] == "assistant"
            ]
            yield (
                Row(array("i", ids[:max_length]), tuple(cut[place] for place in kept)),
                answers[kept[-1]],
            )


def _blocks(
    found: Iterable[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, end_token: bool
) -> Iterator[Row]:
    """Blocks of `max_length` tokens from the texts in their order, each text ended by the end token."""
    found, stream = iter(found), array("i")
    while some := list(islice(found, AT_ONCE)):
        for ids in tokenizer([example.text for example in some], add_special_tokens=False)[
            "input_ids"
        ]:
            stream.extend(ids)
            if end_token:
                stream.append(tokenizer.eos_token_id)
    for start in range(0, len(stream), max_length):
        block = stream[start : start + max_length]
        if (
            len(block) > 1
        ):  # the first token of a block has no predecessor in it, so it is context only
            yield Row(block, ((1, len(block)),))
