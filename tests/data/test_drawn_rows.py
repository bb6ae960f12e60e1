"""Rows that nobody thought of: whatever a file holds becomes rows, or is refused in one line; never a traceback."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from drawn import JSON_VALUES, TEXTS, assert_refusal, drawn
from hypothesis import given
from hypothesis import strategies as st
from sets import chatty, plain

from tuneoff.config import Columns, ConfigError, Data
from tuneoff.data import load_dataset

WORDS = st.one_of(TEXTS, JSON_VALUES)
TURNS = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "weight", "train", "tool_calls"]),
        st.one_of(st.sampled_from(["user", "assistant", "system", "human", "gpt"]), WORDS),
        max_size=3,
    ),
    max_size=4,
)
COLUMNS = (
    "prompt input completion text messages instruction output conversations history system split"
)
KEYS = st.one_of(st.sampled_from(COLUMNS.split()), st.just(""), TEXTS)
ROWS = st.lists(
    st.one_of(
        st.dictionaries(KEYS, st.one_of(WORDS, TURNS), max_size=4),
        st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS}),
        st.fixed_dictionaries({"messages": TURNS}),
        JSON_VALUES,
    ),
    max_size=4,
)
TABLES = st.lists(st.lists(TEXTS, max_size=4).map(",".join), max_size=4).map("\n".join)
FILES = st.one_of(
    ROWS.map(lambda rows: (".jsonl", "\n".join(map(json.dumps, rows)).encode())),
    ROWS.map(lambda rows: (".json", json.dumps(rows).encode())),
    TABLES.map(lambda text: (".csv", text.encode("utf-8", "surrogatepass"))),
    st.tuples(
        st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.xz"]),
        st.binary(),
    ),
)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("TUNEOFF_CACHE", "/dev/null/none")


@drawn(150)
@given(FILES, st.sampled_from([plain, chatty]), st.sampled_from([Columns(), Columns(text="text")]))
def test_any_file_becomes_rows_or_is_refused_in_one_line(file, tokenizer, columns):
    ending, content = file
    with TemporaryDirectory() as folder:
        path = Path(folder, f"rows{ending}")
        path.write_bytes(content)
        data = Data("drawn", str(path), columns=columns)
        try:
            data.check()
            data_set = load_dataset(data, tokenizer(), 64)
        except ConfigError as error:
            assert_refusal(str(error).replace(folder, ""))
        else:
            assert data_set.splits["train"]
        assert path.read_bytes() == content
