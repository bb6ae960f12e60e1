"""The usual formats are found by their columns or named, and say the same; a row that does not fit is named."""

import pytest

from tuneoff.config import Columns, ConfigError
from tuneoff.data.row_formats import find_format, parse_rows
from tuneoff.data.source_rows import SourceRow

ASKED = {"role": "user", "content": "What is 1 + 1?"}
ANSWER = {"role": "assistant", "content": "2"}
TALK = [{"role": "system", "content": "Count."}, ASKED, ANSWER]
SHAREGPT = [
    {"from": "system", "value": "Count."},
    {"from": "human", "value": "What is 1 + 1?"},
    {"from": "gpt", "value": "2"},
]


def read(row: dict, **columns):
    """The format's name and the first example of a set of one row."""
    found = SourceRow(row, "rows.jsonl: line 1")
    form = find_format(Columns(**columns), found)
    (example,) = parse_rows(form, [found])
    return form.name, example


@pytest.mark.parametrize(
    ("name", "row", "messages"),
    [
        ("messages", {"messages": TALK}, TALK),
        ("sharegpt", {"conversations": SHAREGPT}, TALK),
        ("messages", {"messages": SHAREGPT}, TALK),
        ("sharegpt", {"conversations": TALK}, TALK),
        ("prompt_completion", {"prompt": "What is 1 + 1?", "completion": "2"}, [ASKED, ANSWER]),
        ("alpaca", {"instruction": "What is 1 + 1?", "input": "", "output": "2"}, [ASKED, ANSWER]),
        ("alpaca", {"instruction": "What is 1 + 1?", "output": "2"}, [ASKED, ANSWER]),
        (
            "alpaca",
            {"instruction": "Add.", "input": "1, 1", "output": "2", "text": "all of it"},
            [{"role": "user", "content": "Add.\n\n1, 1"}, ANSWER],
        ),
        (
            "alpaca",
            {"instruction": "What is 1 + 1?", "input": " \n", "output": "2"},
            [ASKED, ANSWER],
        ),
        (
            "alpaca",
            {"instruction": "Double.", "input": 0, "output": 0.5},
            [{"role": "user", "content": "Double.\n\n0"}, {"role": "assistant", "content": "0.5"}],
        ),
    ],
)
def test_a_format_is_found_by_its_columns(name, row, messages):
    found, example = read(row)
    assert (found, example.messages) == (name, messages)


def test_columns_can_be_named():
    row = {"question": "What is 1 + 1?", "answer": 2, "about": None, "text": "no"}
    assert read(row, prompt="question", input="about", completion="answer")[1].messages == [
        ASKED,
        ANSWER,
    ]
    assert read({"dialog": TALK}, messages="dialog")[1].messages == TALK
    assert read({"body": "Words.", "text": "others"}, text="body")[1].text == "Words."
    assert read({"text": "Words."}) == ("text", ([], "Words.", "rows.jsonl: line 1"))


def test_conversations_that_begin_alike_ask_the_same():
    hello = {"role": "assistant", "content": "Hello."}
    for talk in ([*TALK], [hello, *TALK]):
        asked, longer = (
            read({"messages": talk})[1].first_question,
            read({"messages": [*talk, ASKED, hello]})[1].first_question,
        )
        assert asked == longer == repr(talk[:-1])  # to the byte: earlier splits stay what they were
    assert (
        read({"messages": [hello, ASKED, ANSWER]})[1].first_question
        != read({"messages": [hello, *TALK]})[1].first_question
    )


def test_a_conversation_ends_with_its_last_answer():
    assert read({"messages": [*TALK, ASKED, ASKED]})[1].messages == TALK
    assert read({"messages": [ASKED]})[1].messages == []


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (
            {"question": "a", "answer": "b"},
            {},
            "^data.path=rows.jsonl: line 1: has columns question, answer; needs messages,.* data.columns.prompt=question",
        ),
        (
            {"question": "a", "answer": "b"},
            {"prompt": "qestion", "completion": "answer"},
            "^data.columns.prompt=qestion: no such column in rows.jsonl: line 1; there are question, answer; did you mean",
        ),
        (
            {"prompt": "a", "context": "b", "completion": "c"},
            {"prompt": "prompt", "input": "contxt", "completion": "a"},
            "^data.columns.input=contxt: no such column in rows.jsonl: line 1; .*; did you mean context",
        ),
        ({"prompt": "a", "completion": None}, {}, "line 1: completion must be text, not NoneType"),
        ({"prompt": ["a"], "completion": "b"}, {}, "line 1: prompt must be text, not list"),
        ({"prompt": "a", "completion": True}, {}, "line 1: completion must be text, not bool"),
        (
            {"prompt": "a", "completion": float("nan")},
            {},
            "line 1: completion must be text, not float nan",
        ),
        ({"prompt": "half \ud83d", "completion": "b"}, {}, "line 1: prompt holds half a character"),
        ({"messages": "a"}, {}, "line 1: messages must be a list of turns"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            {},
            "line 1: messages has a turn of role 'tool'; must be one",
        ),
        (
            {"messages": [{"role": ["user"], "content": "a"}]},
            {},
            "line 1: messages has a turn of role ..user..; must be",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            {},
            "line 1: messages' content must be text",
        ),
        (
            {"conversations": [{"speaker": "human", "value": "a"}]},
            {},
            "line 1: conversations has a turn of role None",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(row, columns, message):
    with pytest.raises(ConfigError, match=message):
        read(row, **columns)


def test_a_later_row_without_a_column_is_named():
    form = find_format(Columns(), SourceRow({"prompt": "a", "completion": "b"}, "line 1"))
    with pytest.raises(ConfigError, match="line 5: has no completion, as the first row has"):
        list(parse_rows(form, [SourceRow({"prompt": "a"}, "line 5")]))
