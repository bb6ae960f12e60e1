"""The tokens that end an answer: those of the template, never a word at which a row was cut."""

import pytest
from sets import SMOLLM2, new_tokenizer, write_lines

from tuneoff.config import Data
from tuneoff.data import load_dataset

WORDS = ["      ", "<think>"]
NO_END = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
ORDINARY_END = SMOLLM2.replace("<|im_end|>", "<|over|>")


def ends_of(tmp_path, tokenizer, max_length: int) -> set[str]:
    """What ends the answers of rows of which one is short, and the others are cut among words."""
    rows = [{"prompt": f"p{n}", "completion": "<think>" * 50 + "      x" * n} for n in range(40)]
    rows.append({"prompt": "q", "completion": "a"})
    path = write_lines(tmp_path / f"{max_length}.jsonl", rows)
    data_set = load_dataset(Data("test", str(path)), tokenizer, max_length)
    return set(tokenizer.convert_ids_to_tokens(list(data_set.answer_end_tokens(tokenizer))))


@pytest.mark.parametrize("max_length", [48, 400])
@pytest.mark.parametrize(
    ("template", "end"),
    [
        (None, "<|end|>"),
        (SMOLLM2, "<|im_end|>"),
        (ORDINARY_END, "<|over|>"),  # a token of its own that the tokenizer does not call special
        (NO_END, None),
    ],
)
def test_an_ordinary_token_at_which_a_row_was_cut_ends_no_answer(
    tmp_path, template, end, max_length
):
    tokenizer = new_tokenizer(template, "<|im_start|>", "<|im_end|>")
    tokenizer.add_tokens([*WORDS, "<|over|>"])
    assert ends_of(tmp_path, tokenizer, max_length) == ({end} if end else set())


def test_rows_of_one_length_end_with_special_tokens_alone(tmp_path):
    tokenizer = new_tokenizer()
    tokenizer.add_tokens(WORDS)
    rows = [{"prompt": "p", "completion": "<think>" * 90}] * 4
    path = write_lines(tmp_path / "rows.jsonl", rows)
    data_set = load_dataset(Data("test", str(path)), tokenizer, 40)
    assert data_set.answer_end_tokens(tokenizer) == set()
