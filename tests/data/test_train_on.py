"""What of a conversation is trained, and validation rows by their number."""

import pytest
from sets import chatty, pairs, plain, trained, write_lines

from tuneoff.config import ConfigError, Data
from tuneoff.data import load_dataset

TURNS = ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2")
TALK = [{"role": role, "content": content} for role, content in TURNS]


@pytest.fixture
def talks(tmp_path) -> str:
    rows = [{"messages": TALK, "split": split} for split in ("train", "validation")]
    return str(write_lines(tmp_path / "talks.jsonl", rows))


@pytest.mark.parametrize(
    ("train_on", "labels"),
    [
        ("answers", ["1<|im_end|>", "2<|im_end|>"]),
        ("last_answer", ["2<|im_end|>"]),
    ],
)
def test_answers_are_trained_all_or_the_last(talks, train_on, labels):
    data = load_dataset(Data("test", talks, train_on=train_on), chatty(), 128)
    (row,) = data.splits["train"]
    (judged,) = data.splits["validation"]
    assert trained(row, chatty()) == labels
    assert len(trained(judged, chatty())) == 2


def test_prompts_are_trained_where_all_is_and_judged_by_answers(talks):
    data = load_dataset(Data("test", talks, train_on="all"), chatty(), 128)
    (row,) = data.splits["train"]
    assert row.labels == len(row.ids) - 1
    assert len(data.splits["validation"][0].spans) == 2
    short = load_dataset(Data("test", talks, train_on="all"), chatty(), 12)
    assert short.splits["train"][0].spans == ((1, 12),)


def test_a_turn_whose_loss_is_off_is_not_trained_where_all_is(tmp_path):
    talk = [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]]
    path = str(write_lines(tmp_path / "rows.jsonl", [{"messages": talk}]))
    data = load_dataset(Data("test", path, train_on="all", validation_share=0), chatty(), 128)
    (row,) = data.splits["train"]
    before, after = trained(row, chatty())
    assert before.endswith("one?<|im_end|>\n<|im_start|>assistant\n")
    assert after.endswith("2<|im_end|>\n")
    start = row.spans[1][0]
    short = load_dataset(
        Data("test", path, train_on="all", validation_share=0), chatty(), start - 1
    )
    assert short.splits["train"][0].spans == (row.spans[0],)


def test_a_last_answer_behind_max_length_is_counted(tmp_path):
    short = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    path = write_lines(tmp_path / "rows.jsonl", [short, {"messages": TALK}])
    settings = Data("test", str(path), train_on="last_answer")
    data = load_dataset(settings, plain(), 30)
    assert data.dropped["train"] == 1 and len(data.splits["train"]) == 1


def test_validation_rows_are_so_many_whatever_the_share_says(tmp_path):
    path = str(write_lines(tmp_path / "rows.jsonl", pairs(30)))
    settings = Data("test", path, validation_rows=7, validation_share=0.5, test_share=0.1)
    data = load_dataset(settings, plain(), 64)
    counts = {split: len(rows) for split, rows in data.splits.items()}
    assert counts == {"train": 20, "validation": 7, "test": 3}


@pytest.mark.parametrize("rows", [30, 400])
def test_validation_rows_leave_some_to_train_on(tmp_path, rows):
    path = str(write_lines(tmp_path / "rows.jsonl", pairs(30)))
    with pytest.raises(ConfigError, match="data.validation_rows=.*: must leave rows to train on"):
        load_dataset(Data("test", path, validation_rows=rows), plain(), 64)


@pytest.mark.parametrize(("name", "between"), [("empty_line", "\n\n"), ("line", "\n")])
def test_an_input_stands_below_its_instruction(tmp_path, name, between):
    row = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    path = str(write_lines(tmp_path / "rows.jsonl", [row]))
    data = load_dataset(Data("test", path, template="empty", input_break=name), plain(), 64)
    text = plain().decode(list(data.splits["train"][0].ids))
    assert f"Add.{between}1 + 12" in text


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"text": "a b c"}, {"train_on": "last_answer"}),
        ({"text": "a b c"}, {"template": "plain"}),
        ({"prompt": "a", "completion": "b"}, {"end_token": False}),
    ],
)
def test_what_would_change_nothing_for_these_rows_is_refused(tmp_path, row, settings):
    path = write_lines(tmp_path / "rows.jsonl", [row])
    (key,) = settings
    with pytest.raises(ConfigError, match=f"^data.{key}=.*: is for "):
        load_dataset(Data("test", str(path), **settings), plain(), 64)
