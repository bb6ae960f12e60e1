"""Where a text begins and ends, for tokenizers that put special tokens before a text, after it, or nowhere."""

import pytest
from sets import SMOLLM2, new_tokenizer, plain, trained, write_lines
from tokenizers import processors

from tuneoff.config import Data
from tuneoff.data import load_dataset
from tuneoff.data.boundaries import find_begin_tokens, find_label_spans

PAIR = {"prompt": "What is 1 + 1?", "completion": "Two."}
ASKED = "### Instruction:\nWhat is 1 + 1?\n\n### Response:\n"
# What a tokenizer does by itself: before a text, after it, both, two tokens before it.
HABITS = {"<s> $A": "<s>", "$A <|end|>": "", "<s> $A <|end|>": "<s>", "<s> <g> $A </s>": "<s><g>"}


def tokenizer_that_adds(habit: str, template: str | None = None):
    """Tiny's tokenizer with a post-processor, as Llama's and BERT's have one."""
    tokenizer = new_tokenizer(template, "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "</s>", "<g>"]})
    special = [word for word in habit.split() if word != "$A"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=habit,
        special_tokens=[(word, tokenizer.convert_tokens_to_ids(word)) for word in special],
    )
    assert tokenizer.decode(tokenizer("a")["input_ids"]) == habit.replace(" ", "").replace(
        "$A", "a"
    )
    return tokenizer


def load(tmp_path, rows, tokenizer, max_length=96, **settings):
    path = write_lines(tmp_path / "rows.jsonl", rows)
    return load_dataset(Data("test", str(path), **settings), tokenizer, max_length)


@pytest.mark.parametrize("habit", HABITS)
def test_an_answer_follows_its_prompt_whatever_the_tokenizer_appends(tmp_path, habit):
    tokenizer = tokenizer_that_adds(habit)
    data = load(tmp_path, [{**PAIR, "split": split} for split in ("train", "test")], tokenizer)
    begin = HABITS[habit]
    assert data.example == f"{begin}{ASKED}«Two.<|end|>»"
    # What a model is asked when it generates is what it was trained on, to the token.
    (question,) = data.questions("test")
    assert tokenizer.decode(question.prompt) == f"{begin}{ASKED}"


@pytest.mark.parametrize("habit", HABITS)
def test_a_text_begins_as_a_pair_does(tmp_path, habit):
    tokenizer = tokenizer_that_adds(habit)
    texts = [{"text": "one two"}, {"text": "three"}]
    (row,) = load(tmp_path, texts, tokenizer).splits["train"]
    begin = HABITS[habit]
    assert tokenizer.decode(row.ids) == f"{begin}one two<|end|>{begin}three<|end|>"
    # The end of a text is asked for, its beginning is not.
    labels = "".join(trained(row, tokenizer))
    assert labels.count("<|end|>") == 2 and "<s>" not in labels and "three" in labels
    (lines,) = load(tmp_path, texts, tokenizer, end_token=False).splits["train"]
    assert tokenizer.decode(lines.ids) == f"{begin}one twothree"


def test_the_log_shows_where_a_text_begins(tmp_path):
    data = load(tmp_path, [{"text": "one"}, {"text": "two"}], tokenizer_that_adds("<s> $A"))
    assert data.example == "<s>«one<|end|>»<s>«two<|end|>»"


def test_blocks_of_a_text_hold_every_token_once_and_no_beginning_is_a_label(tmp_path):
    tokenizer = tokenizer_that_adds("<s> $A")
    texts = [{"text": "word " * length} for length in (1, 3, 9, 2, 1, 1)]
    whole = load(tmp_path, texts, tokenizer, 512).splits["train"][0]
    rows = load(tmp_path, texts, tokenizer, 4).splits["train"]
    stream = [token for row in rows for token in row.ids]
    assert stream == whole.ids.tolist()[: len(stream)] and len(stream) > len(whole.ids) - 4
    begin = tokenizer.convert_tokens_to_ids("<s>")
    for row in rows:
        labels = {position for start, end in row.spans for position in range(start, end)}
        context = {position for position, token in enumerate(row.ids) if token == begin}
        assert labels == set(range(1, len(row.ids))) - context


def test_spans_of_a_block_leave_out_what_begins_a_text():
    for is_begin, spans in (
        (b"\0\0\0", [(1, 3)]),
        (b"\1\0\1\1\0", [(1, 2), (4, 5)]),
        (b"\1\1", []),
        (b"\0", []),
        (b"\0\1", []),
    ):
        assert find_label_spans(is_begin) == spans


def test_a_chat_template_writes_beginning_and_end_itself(tmp_path):
    tokenizer = tokenizer_that_adds("<s> $A </s>", "{{ '<s>' }}" + SMOLLM2)
    data = load(tmp_path, [PAIR], tokenizer)
    assert data.example.startswith("<s><|im_start|>system") and data.example.count("<s>") == 1
    assert data.example.endswith("«Two.<|im_end|>»\n")


def test_tiny_begins_a_text_with_nothing():
    assert find_begin_tokens(plain()) == []
