"""Loading: from settings to tokenised rows, which are kept for the next run."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from tuneoff.config import ConfigError, Data, SingleSet
from tuneoff.data import cache
from tuneoff.data.boundaries import find_begin_tokens, find_label_spans, find_spans_between
from tuneoff.data.conversations import give_system
from tuneoff.data.dataset import DataSet, Row, fingerprint_rows, show_example
from tuneoff.data.joining import join_sets
from tuneoff.data.plain_template import EncodedConversation
from tuneoff.data.row_formats import Example
from tuneoff.data.source_rows import Source
from tuneoff.data.sources import open_source
from tuneoff.data.special_tokens import count_special_tokens
from tuneoff.data.splits import read_examples
from tuneoff.data.templates import Template, choose_template
from tuneoff.data.unread import UnreadParts

# Examples that are tokenised together, and how many characters at most before the next is begun:
# between two chunks a signal is heard, and a chunk takes a fraction of a second.
CHUNK_EXAMPLES = 1000
CHUNK_CHARACTERS = 500_000


def load_dataset(data: Data, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DataSet:
    """Read and tokenise a set, or several and join them.

    Raises:
        ConfigError: as `load_single_set`, naming the set; or no row that several sets can give.
    """
    if not data.sets:
        result = load_single_set(data, tokenizer, max_length)
    else:
        parts = {}
        for name, settings in data.sets.items():
            try:
                parts[name] = load_single_set(settings, tokenizer, max_length)
            except ConfigError as error:
                key = error.key.replace("data.", f"data.sets.{name}.", 1)
                raise ConfigError(key, error.value, error.allowed) from error
        result = join_sets(data, parts)
    result.example = show_example(result.splits["train"][0], tokenizer)
    return result


def load_single_set(
    data: SingleSet, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> DataSet:
    """Read and tokenise a set.

    Conversations are cut to `max_length` tokens, text is divided into blocks of it. What was
    tokenised before, of the same content by the same settings and tokenizer, comes from the cache.

    Raises:
        ConfigError: what cannot be read or is not there, a template that does not suit, or no
            training rows.
    """
    source = open_source(data)
    template = choose_template(data, tokenizer)
    path = None
    result = None
    if source.key:
        path = cache.cache_path(source.key, data, template.text, tokenizer, max_length)
        result = cache.read_cached_set(path, source.name)
    if result is None:
        result = tokenize_dataset(data, source, template, max_length)
        if path is not None:
            cache.write_cached_set(path, result, source.name)
    return result


def tokenize_dataset(
    data: SingleSet, source: Source, template: Template, max_length: int
) -> DataSet:
    """Make the rows of all splits.

    Raises:
        ConfigError: as `load_single_set`.
    """
    result = DataSet()
    unread = UnreadParts(skips_bad_rows=data.on_bad_row == "skip")
    row_format, examples = read_examples(data, source, result, unread)
    for split, all_members in examples.items():
        members = count_special_tokens(all_members, template.tokenizer, unread.special_tokens)
        if row_format.name == "text":
            blocks = make_blocks(members, template.tokenizer, max_length, data.end_token)
            result.splits[split] = list(blocks)
        else:
            add_conversations(members, template, max_length, split, result, data, unread)
    result.unread = unread.facts()
    columns = row_format.recorded_columns(unread.used_columns)
    result.recipe = {"format": row_format.name, "columns": columns}
    if row_format.name != "text":
        result.recipe["template"] = template.name
        result.recipe["template_text"] = template.text
        result.recipe["default_system"] = data.default_system
    refuse_unused_settings(data, row_format.name)
    split = data.only_for or "train"
    if not result.splits[split]:
        raise ConfigError("data.path", data.path, explain_no_rows(result, max_length, split))
    result.fingerprint = fingerprint_rows(result.splits)
    return result


def refuse_unused_settings(data: SingleSet, format_name: str) -> None:
    """Refuse what would change nothing for rows of this format, and be recorded as if it had.

    Raises:
        ConfigError: a template, words of the system or the last answer of a text; a text's end token of a conversation.
    """
    allowed = "is for conversations, and these rows are text"
    if format_name != "text":
        if not data.end_token:
            reason = "is for texts, and these rows are conversations"
            raise ConfigError("data.end_token", False, reason)
    elif data.default_system:
        raise ConfigError("data.default_system", data.default_system, allowed)
    elif data.template != "auto":
        raise ConfigError("data.template", data.template, allowed)
    elif data.train_on == "last_answer":
        raise ConfigError("data.train_on", data.train_on, allowed)


def explain_no_rows(result: DataSet, max_length: int, split: str) -> str:
    """Return why no row of a split was left."""
    reason = "no training rows" if split == "train" else f"no {split} rows"
    cut = result.cut[split]
    if cut:
        longer = "which must be longer"
        return (
            f"{reason}: no answer of {cut} examples begins within max_length={max_length}, {longer}"
        )
    if result.dropped[split]:
        return f"{reason}: no row has an answer"
    if result.unread.get("skipped"):
        return f"{reason} beside those that are skipped, as {result.unread['skipped'][0]}"
    return reason


def add_conversations(
    examples: Iterable[Example],
    template: Template,
    max_length: int,
    split: str,
    result: DataSet,
    data: SingleSet,
    unread: UnreadParts,
) -> None:
    """Add a row to `result` for each conversation; the loss is on what `data.train_on` says.

    Of validation and test the last answer of which the row holds a token is added, too.
    """
    # What a run is judged by is the same whatever it is trained on.
    train_on = data.train_on if split == "train" else "answers"
    for example, (ids, spans) in encode_examples(template, examples, data, unread):
        answers = []
        for message in example.messages:
            if message["role"] == "assistant":
                answers.append(message["content"])
        # What is left of each answer within max_length.
        spans_left = []
        last_answer = ""
        for number, (start, end) in enumerate(spans):
            is_passed_over = train_on == "last_answer" and number < len(spans) - 1
            if number in example.untrained or is_passed_over:
                continue
            start = max(1, start)
            end = min(end, max_length)
            if start < end:
                spans_left.append((start, end))
                last_answer = answers[number]
        if len(ids) > max_length:
            result.cut[split] += 1
        if train_on == "all":
            passed_over = [spans[number] for number in sorted(example.untrained)]
            spans_left = find_spans_between(passed_over, min(len(ids), max_length))
        if not spans_left:
            result.dropped[split] += 1
            continue
        row = Row(array("i", ids[:max_length]), tuple(spans_left))
        result.splits[split].append(row)
        result.asked[split].append(hash_question(example))
        if split != "train":
            result.answers.setdefault(split, []).append(last_answer)


def encode_examples(
    template: Template,
    examples: Iterable[Example],
    data: SingleSet,
    unread: UnreadParts,
) -> Iterator[tuple[Example, EncodedConversation]]:
    """Yield conversations with their token ids, without those that are skipped.

    Raises:
        ConfigError: as `encode_all`.
    """
    for chunk in divide_into_chunks(examples):
        completed = add_system(chunk, data.default_system)
        encoded = encode_all(template, completed, unread)
        for example, conversation in zip(chunk, encoded, strict=True):
            if conversation is not None:
                yield example, conversation


def encode_all(
    template: Template, examples: list[Example], unread: UnreadParts
) -> list[EncodedConversation | None]:
    """Return the token ids of conversations; None for one that the template refuses, where such are skipped.

    Raises:
        ConfigError: a conversation that the template refuses, where bad rows are not skipped.
    """
    try:
        return list(template.encode(examples))
    except ConfigError:
        if not unread.skips_bad_rows:
            raise
    # Only each by itself tells which ones are refused.
    encoded: list[EncodedConversation | None] = []
    for example in examples:
        try:
            encoded += template.encode([example])
        except ConfigError as error:
            unread.bad_rows.append(error.allowed)
            encoded.append(None)
    return encoded


def add_system(examples: list[Example], words: str | None) -> list[Example]:
    """Return examples in which the system says something; what they ask stays what it was."""
    completed = []
    for example in examples:
        completed.append(example._replace(messages=give_system(example.messages, words)))
    return completed


def hash_question(example: Example) -> int:
    """Return what an example asks as a number of 64 bits: equal where the questions are."""
    digest = hashlib.blake2b(example.first_question.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def make_blocks(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    end_token: bool,
) -> Iterator[Row]:
    """Yield blocks of `max_length` tokens from the texts in their order.

    Where texts begin and end is said in `boundaries`.

    Args:
        examples: the texts.
        tokenizer: makes tokens of them.
        max_length: tokens of a block; the last may be shorter.
        end_token: whether the tokenizer's end token follows each text. Otherwise the examples are
            lines of one text, which begins once.
    """
    begin_tokens = find_begin_tokens(tokenizer)
    stream = array("i")
    is_begin = bytearray()  # for each token of the stream
    for chunk in divide_into_chunks(examples):
        texts = [example.text for example in chunk]
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            if end_token or not stream:
                stream.extend(begin_tokens)
                is_begin.extend(1 for _ in begin_tokens)
            stream.extend(ids)
            if end_token:
                stream.append(tokenizer.eos_token_id)
            is_begin.extend(bytes(len(stream) - len(is_begin)))
    for start in range(0, len(stream), max_length):
        end = start + max_length
        spans = find_label_spans(is_begin[start:end])
        if spans:
            yield Row(stream[start:end], tuple(spans))


def divide_into_chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield the examples in lists that are tokenised together."""
    chunk: list[Example] = []
    characters = 0
    for example in examples:
        chunk.append(example)
        characters += len(example.text)
        characters += sum(len(message["content"]) for message in example.messages)
        if len(chunk) == CHUNK_EXAMPLES or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk = []
            characters = 0
    if chunk:
        yield chunk
