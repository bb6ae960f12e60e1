"""Rows know their answers: what is trained, and what a model is asked for when it generates."""
import json

import pytest
from conftest import TINY

from tuneoff.config import Data
from tuneoff.data import load


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(TINY)


def test_questions_are_the_rows_up_to_their_answers(tmp_path, tokenizer):
    rows = [{"split": "train", "prompt": "one", "completion": "two"},
            {"split": "test", "prompt": "long " * 50, "completion": "nowhere"},
            {"split": "test", "prompt": "What is 3 + 4?", "completion": "It is 7. " * 20}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load(Data("test", str(path)), tokenizer, 48)
    question, = data.questions("test")
    assert question.answer == "It is 7. " * 20
    assert tokenizer.decode(question.prompt) == "### Instruction:\nWhat is 3 + 4?\n\n### Response:\n"
    assert data.questions("validation") == []
