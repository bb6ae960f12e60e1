"""Conversations in which nobody answers: left out, and counted in the split and within the limit that they stand in."""

import pytest
from sets import plain, write_lines

from tuneoff.config import ConfigError, Data
from tuneoff.data import load_dataset


def make_talks(count: int, split: str | None = None) -> list[dict]:
    """Twice as many conversations: each with an answer stands behind one without."""
    rows = []
    for number in range(count):
        question = {"role": "user", "content": f"What is {number}?"}
        answer = {"role": "assistant", "content": str(number)}
        for messages in ([question], [question, answer]):
            row = {"messages": messages}
            rows.append(row if split is None else {**row, "split": split})
    return rows


@pytest.mark.parametrize(("limit", "counts"), [(None, (90, 10)), (10, (10, 10)), (5, (5, 5))])
def test_shares_and_limits_count_what_stands_in_them(tmp_path, limit, counts):
    path = write_lines(tmp_path / "rows.jsonl", make_talks(100))
    data_set = load_dataset(Data("test", str(path), validation_share=0.1, limit=limit), plain(), 64)
    train, validation = counts
    assert [len(rows) for rows in data_set.splits.values()] == [train, validation, 0]
    assert data_set.dropped == {"train": train, "validation": validation, "test": 0}


def test_rows_are_the_same_as_without_those_that_nobody_answers(tmp_path):
    rows = make_talks(30)
    settings = {"validation_rows": 4, "test_share": 0.2, "limit": 20}
    kinds = {"all": [*rows, rows[0]], "answered": rows[1::2]}
    found = {}
    for name, kept in kinds.items():
        path = write_lines(tmp_path / f"{name}.jsonl", kept)
        found[name] = load_dataset(Data("test", str(path), **settings), plain(), 64)
    assert found["all"].fingerprint == found["answered"].fingerprint
    assert sum(found["answered"].dropped.values()) == 0
    # The last one stands behind the limit.
    assert found["all"].dropped == {"train": 20, "validation": 4, "test": 6}


def test_a_split_of_its_own_counts_its_own(tmp_path):
    rows = [*make_talks(9, "train"), *make_talks(3, "validation")]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    data_set = load_dataset(Data("test", str(path), limit=4, eval_limit=2), plain(), 64)
    assert data_set.dropped == {"train": 4, "validation": 2, "test": 0}


def test_an_empty_text_is_no_unanswered_question(tmp_path):
    path = write_lines(
        tmp_path / "rows.jsonl", [*({"text": str(n)} for n in range(9)), {"text": ""}]
    )
    data_set = load_dataset(Data("test", str(path), validation_share=0.4), plain(), 64)
    assert sum(data_set.dropped.values()) == 0 and data_set.facts()["unread"] == {"empty_texts": 1}


def test_a_number_of_rows_is_one_of_answered_ones(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", make_talks(4))
    with pytest.raises(ConfigError, match="must leave rows to train on, of 4$"):
        load_dataset(Data("test", str(path), validation_rows=4), plain(), 64)
