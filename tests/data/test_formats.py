"""The usual formats are found by their columns or named, and say the same; a row that does not fit is named."""

import pytest

from tuneoff.config import Columns, ConfigError
from tuneoff.data.row_formats import Example, find_format, parse_rows
from tuneoff.data.source_rows import SourceRow
from tuneoff.data.unread import UnreadParts

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
    return read_with_counts(row, **columns)[:2]


def read_with_counts(row: dict, **columns):
    """The same, and what of the row is not read."""
    found = SourceRow(row, "rows.jsonl: line 1")
    form = find_format(Columns(**columns), found)
    unread = UnreadParts()
    (example,) = parse_rows(form, [found], unread)
    return form.name, example, unread.facts()


def said(*turns: str) -> list[dict]:
    """Messages of turns written as `user: text`."""
    return [dict(zip(("role", "content"), turn.split(": "), strict=True)) for turn in turns]


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
        ("alpaca", {"instruction": "", "input": "What is 1 + 1?", "output": "2"}, [ASKED, ANSWER]),
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


def test_what_the_system_says_and_a_history_are_read():
    turns = said("user: What is 1 + 1?", "assistant: 2")
    system = {"role": "system", "content": "Count."}
    history = [["What is 0 + 0?", "0"], ["What is 0 + 1?", 1]]
    before = said("user: What is 0 + 0?", "assistant: 0", "user: What is 0 + 1?", "assistant: 1")
    alpaca = {
        "instruction": "What is 1 + 1?",
        "output": "2",
        "history": history,
        "system": "Count.",
    }
    assert read(alpaca) == ("alpaca", Example([system, *before, *turns], "", "rows.jsonl: line 1"))
    for row in (
        {"conversations": SHAREGPT[1:], "system": "Count.", "tools": "[]"},
        {"conversations": SHAREGPT, "system": "Count."},
        {"messages": turns, "system": "Count."},
        {"prompt": "What is 1 + 1?", "completion": "2", "system": "Count."},
    ):
        assert read_with_counts(row)[1:] == (Example(TALK, "", "rows.jsonl: line 1"), {})
    for nothing in (None, "", " ", [], "[]"):
        row = {"instruction": "What is 1 + 1?", "output": "2", "history": nothing}
        assert read(row)[1].messages == turns
    row = {"q": "What is 1 + 1?", "a": "2", "who": "Count.", "past": [["What is 0 + 0?", "0"]]}
    named = {"prompt": "q", "completion": "a", "system": "who", "history": "past"}
    assert read(row, **named)[1].messages == [system, *before[:2], *turns]
    assert read({"messages": turns, "who": "Count."}, system="who")[1].messages == TALK


@pytest.mark.parametrize("empty", ["", " \n"])
def test_a_turn_of_a_system_that_says_nothing_is_none(empty):
    turns = said("user: What is 1 + 1?", "assistant: 2")
    silent = [{"role": "system", "content": empty}, *turns]
    assert read({"messages": silent})[1].messages == turns
    assert read({"messages": silent, "system": "Count."})[1].messages == TALK
    again = [*silent, {"role": "developer", "content": empty}, *turns]
    assert read({"messages": again})[1].messages == turns * 2


@pytest.mark.parametrize("key", ["weight", "train", "loss_mask", "loss"])
@pytest.mark.parametrize(("off", "on"), [(0, 1), ("0", "1"), (False, True), (0.0, 1.0), (0, None)])
def test_a_turn_that_is_marked_so_is_not_trained(key, off, on):
    wrong, right = (
        {**ANSWER, "content": text, key: mark} for text, mark in (("3", off), ("2", on))
    )
    turns = [ASKED, wrong, {"role": "user", "content": "No."}, right]
    example = read({"messages": turns})[1]
    assert example.messages == said(
        "user: What is 1 + 1?", "assistant: 3", "user: No.", "assistant: 2"
    )
    assert example.untrained == {0}
    # Nothing is learned from what follows the last trained answer.
    assert read({"messages": [ASKED, right, ASKED, wrong]})[1].messages == [ASKED, ANSWER]
    assert read({"messages": [ASKED, wrong]})[1].messages == []


def test_what_is_not_read_is_counted():
    thought = {**ANSWER, "reasoning_content": "One and one.", "name": None, "id": ""}
    row = {"messages": [{**ASKED, "train": True}, thought], "tools": "[{}]", "id": 7, "images": []}
    assert read_with_counts(row)[2] == {
        "columns": {"id": 1, "tools": 1},
        "turn_keys": {"a mark to train on the user": 1, "reasoning_content": 1},
    }
    pair = {"prompt": "a", "completion": "", "split": "train", "": "3", "note": None}
    assert read_with_counts(pair)[2] == {
        "columns": {"(a column without a name)": 1},
        "empty_answers": 1,
    }
    assert read_with_counts({"text": " \n"})[2] == {"empty_texts": 1}
    named = {"prompt": "a", "completion": "b", "system": "c"}
    assert read_with_counts(named, prompt="prompt", completion="completion")[2] == {
        "columns": {"system": 1}
    }


def test_a_turn_may_have_the_keys_of_both_forms():
    """As a parquet file has them that was put together from two sets."""
    openai = {"role": "user", "content": "What is 1 + 1?", "from": None, "value": None}
    sharegpt = {"role": None, "content": None, "from": "gpt", "value": "2"}
    assert read({"messages": [openai, sharegpt]})[1].messages == [ASKED, ANSWER]


def test_text_in_parts_is_read_and_the_developer_is_the_system():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 1?"}]
    turns = [{"role": "developer", "content": "Count."}, {"role": "user", "content": parts}, ANSWER]
    assert read({"messages": turns})[1].messages == TALK


def test_columns_can_be_named():
    row = {"question": "What is 1 + 1?", "answer": 2, "about": None, "text": "no"}
    assert read(row, prompt="question", input="about", completion="answer")[1].messages == [
        ASKED,
        ANSWER,
    ]
    assert read({"dialog": TALK}, messages="dialog")[1].messages == TALK
    assert read({"body": "Words.", "text": "others"}, text="body")[1].text == "Words."
    assert read({"text": "Words."}) == ("text", Example([], "Words.", "rows.jsonl: line 1"))


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
        ({"prompt": "a", "completion": None}, {}, "line 1: completion must be text, not null"),
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
            "line 1: conversations has a turn of role null",
        ),
        (
            {"messages": [{"role": "user", "from": "gpt", "content": "a"}]},
            {},
            "line 1: messages has a turn with role=user and from=gpt; which",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "value": "b"}]},
            {},
            "line 1: messages has a turn whose content and value differ",
        ),
        (
            {"messages": [*TALK, {**ANSWER, "content": "", "tool_calls": [{"name": "add"}]}]},
            {},
            "line 1: messages has a turn with tool_calls, which no template here takes",
        ),
        (
            {"messages": [*TALK, {**ANSWER, "content": "", "function_call": {"name": "add"}}]},
            {},
            "line 1: messages has a turn with function_call",
        ),
        (
            {"messages": [*TALK, {**ANSWER, "weight": "0.5"}]},
            {},
            "line 1: messages has a turn with weight='0.5'; must be 0 or 1",
        ),
        (
            {"messages": [*TALK, {**ANSWER, "weight": 0, "train": True}]},
            {},
            "line 1: messages has a turn whose weight and train differ",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "url": "a"}]}]},
            {},
            "line 1: messages' content has a part of type 'image_url'; only text is read",
        ),
        (
            {"messages": TALK, "system": "Be kind."},
            {},
            "line 1: system differs from the turn of the system",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["c"]]},
            {},
            "line 1: history must be a list of pairs",
        ),
        (
            {"instruction": "a", "output": "b", "history": "c"},
            {},
            "line 1: history must be a list of pairs",
        ),
        (
            {"text": "a", "system": "b"},
            {"system": "system"},
            "^data.columns.system=system: must be null where the rows are text",
        ),
        (
            {"version": "1", "data": [{"prompt": "a", "completion": "b"}]},
            {},
            "has columns version, data; needs .*; if data holds the rows, save that list as the file$",
        ),
        (
            {"half \ud83d": "a", "two\nlines\x1b[31m": "b", "": "c"},
            {},
            r"has columns half .ud83d, two.nlines.x1b.31m, \(a column without a name\); needs",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(row, columns, message):
    with pytest.raises(ConfigError, match=message):
        read(row, **columns)


def test_a_later_row_without_a_column_is_named():
    form = find_format(Columns(), SourceRow({"prompt": "a", "completion": "b"}, "line 1"))
    with pytest.raises(ConfigError, match="line 5: has no completion, as the first row has"):
        list(parse_rows(form, [SourceRow({"prompt": "a"}, "line 5")], UnreadParts()))


@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize("mark", [False, "False", "false", " FALSE "])
def test_an_answer_that_is_marked_as_bad_is_not_learned(name, mark):
    """Sets for KTO hold good answers and bad ones."""
    row = {"prompt": "What is 1 + 1?", "completion": "3"}
    with pytest.raises(ConfigError, match=f"line 1: {name} is false, which marks its answer"):
        read(row | {name: mark})
    for good in (True, "True", "1", 1):
        assert read(row | {name: good})[0] == "prompt_completion"
    # A text is no answer, and its label a column like any other.
    assert read({"text": "3", name: mark})[0] == "text"
