"""Special tokens that stand in the words of a row: a tokenizer takes them for its own, and so does a chat template."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from tuneoff.data.row_formats import Example


def count_special_tokens(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, counts: Counter[str]
) -> Iterator[Example]:
    """Yield the examples as they are, and count those that hold a special token, by token.

    They are read as every library reads them: the end token of a text, where somebody wrote it, ends that text.
    """
    pattern = compile_special_tokens(tokenizer)
    if pattern is None:
        yield from examples
        return
    for example in examples:
        texts = [example.text]
        texts += [message["content"] for message in example.messages]
        counts.update(set(pattern.findall("\n".join(texts))))
        yield example


def compile_special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Return what matches any special token of a tokenizer as it is written; None where it has none."""
    written = set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            written.add(token.content)
    written.discard("")
    if not written:
        return None
    # The longest first, as a tokenizer takes them.
    longest_first = sorted(written, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
