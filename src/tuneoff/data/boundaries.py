"""Where a text begins and ends: the one rule for the special tokens around it.

- A text begins with the tokens that the tokenizer itself puts before one (`<s>`, or none). They
  are context, never labels.
- What the tokenizer puts after a text is not taken: it would stand between a prompt and its
  answer. The end token follows each answer and, unless data.end_token=false, each text of a set of
  texts. It is a label.
- A chat template writes both itself, and nothing is added to it.
"""

from transformers import PreTrainedTokenizerBase

PROBE = "a"
Span = tuple[int, int]


def find_begin_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a tokenizer puts before a text; none for most base models."""
    bare = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(PROBE)["input_ids"]
    for start in range(len(whole)):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def find_label_spans(is_begin: bytes | bytearray) -> list[tuple[int, int]]:
    """Return [start, end) of the labels of a block of text.

    Args:
        is_begin: for each token of the block, 1 where it begins a text, else 0.
    """
    spans = []
    start = 1  # the first token has no predecessor in the block
    while start < len(is_begin):
        end = is_begin.find(1, start)
        if end < 0:
            end = len(is_begin)
        if start < end:
            spans.append((start, end))
        start = end + 1
    return spans


def find_spans_between(passed_over: list[Span], length: int) -> list[Span]:
    """Return [start, end) of the labels of a row of which some parts, in order, are context only."""
    spans = []
    start = 1  # the first token has no predecessor
    for part_start, part_end in passed_over:
        spans.append((start, min(part_start, length)))
        start = part_end
    spans.append((start, length))
    return [(start, end) for start, end in spans if start < end]
