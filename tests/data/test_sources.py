"""Rows are read as they were written, from every kind of file; what cannot be read is refused with its place."""

import csv
import gzip
import json
import logging
import lzma

import pytest
from sets import pairs, plain, write_lines

from tuneoff.config import ConfigError, Data, Splits
from tuneoff.data import load_dataset
from tuneoff.data.hub import open_with_datasets
from tuneoff.data.sources import open_source

# Each would be another value if a reader guessed at types.
AWKWARD = [
    "007",
    "NA",
    "1e3",
    "2020-01-31",
    "",
    "null",
    "True",
    'a "quoted", word',
    "two\nlines",
    "ünï ✓ \u2028 😀",
]


def rows(path, **settings):
    """Split -> rows."""
    splits = open_source(Data("test", str(path), **settings)).read()
    return {name: [found.values for found in items] for name, items in splits.items()}


def write_csv(path, content):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, content[0])
        writer.writeheader()
        writer.writerows(content)


def write_parquet(path, content):
    import datasets

    datasets.Dataset.from_list(content).to_parquet(path)


def write(path, content):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()
    writers = {
        "jsonl": lambda: path.write_bytes(text),
        "json": lambda: path.write_text(json.dumps(content, indent=1)),
        "jsonl.gz": lambda: path.write_bytes(gzip.compress(text)),
        "csv": lambda: write_csv(path, content),
        "jsonl.xz": lambda: path.write_bytes(lzma.compress(text)),
        "bom.jsonl": lambda: path.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n\r\n")),
        "mark.jsonl": lambda: path.write_bytes(b"\xef\xbb\xbf\n" + text),
        "lines.json": lambda: path.write_bytes(text),
        "parquet": lambda: write_parquet(path, content),
    }
    writers[path.name.partition(".")[2]]()


@pytest.mark.parametrize(
    "kind",
    [
        "jsonl",
        "json",
        "lines.json",
        "bom.jsonl",
        "mark.jsonl",
        "jsonl.gz",
        "jsonl.xz",
        "csv",
        "parquet",
    ],
)
def test_every_kind_of_file_gives_the_text_that_was_written(tmp_path, kind):
    content = [{"prompt": f"q{number}", "completion": text} for number, text in enumerate(AWKWARD)]
    write(tmp_path / f"rows.{kind}", content)
    assert rows(tmp_path / f"rows.{kind}") == {"train": content}


def test_a_folder_is_read_whole_and_its_names_say_the_split(tmp_path):
    for name, count in {
        "train-00000-of-00002.jsonl": 1,
        "train-00001-of-00002.jsonl": 2,
        "dev/a.jsonl": 3,
        "nested/eval.jsonl": 4,
        "latest.jsonl": 5,
        ".hidden/train.jsonl": 6,
    }.items():
        write_lines(tmp_path / name, pairs(count, file=name))
    (tmp_path / "README.md").write_text("not data")
    found = rows(tmp_path)
    assert [row["file"] for row in found["train"]] == ["latest.jsonl"] * 5 + [
        "train-00000-of-00002.jsonl"
    ] + ["train-00001-of-00002.jsonl"] * 2
    assert {name: len(items) for name, items in found.items()} == {
        "train": 8,
        "validation": 3,
        "test": 4,
    }


def test_one_file_of_a_folder_belongs_to_the_split_that_its_name_says(tmp_path):
    path = write_lines(tmp_path / "validation.jsonl", pairs(2))
    assert set(rows(tmp_path)) == {"validation"} and set(rows(path)) == {"train"}


def test_what_the_hub_writes_about_a_set_is_no_data(tmp_path):
    for name in ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "deep/state.json"):
        write_lines(tmp_path / name, [{"about": "the set"}])
    write_lines(tmp_path / "train.json", pairs(1))
    assert rows(tmp_path) == {"train": pairs(1)}


def test_numbers_stay_as_they_are_written(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": 18.50, "completion": %s}' % ("1" * 5000))
    assert rows(tmp_path / "rows.jsonl") == {
        "train": [{"prompt": "18.50", "completion": "1" * 5000}]
    }


def test_a_row_may_name_its_split_and_data_splits_renames_it(tmp_path):
    path = write_lines(
        tmp_path / "rows.jsonl",
        [
            *pairs(3, split="Train"),
            *pairs(2, split="dev"),
            *pairs(1, split="validation"),
            *pairs(4, split="spare"),
        ],
    )
    with pytest.raises(
        ConfigError, match=r"line 7: split='spare': data.splits names train, validation, test alone"
    ):
        rows(path)
    for splits, counts in (
        (Splits(test="spare"), {"train": 3, "validation": 3, "spare": 4}),
        (Splits(validation="dev", test="spare"), {"train": 3, "dev": 2, "spare": 4}),
        (Splits(validation=None, test="spare"), {"train": 3, "spare": 4}),
    ):
        assert {name: len(items) for name, items in rows(path, splits=splits).items()} == counts
    with pytest.raises(ConfigError, match="line 1: split="):
        rows(write_lines(tmp_path / "rows.jsonl", pairs(1, split=["train"])))


GOOD = b'{"prompt": "a", "completion": "b"}\n'
BROKEN = {
    (
        "rows.jsonl",
        GOOD + b'{"prompt": "a", "completion": \n' + GOOD,
    ): "line 2, column 30: Expecting value",
    ("rows.jsonl", GOOD * 2 + b"[1]\n"): "line 3: not an object",
    (
        "rows.jsonl",
        GOOD * 4 + '{"prompt": "é"}'.encode("latin-1"),
    ): r"line 5: not UTF-8 \(byte 0xe9\)",
    ("rows.jsonl", GOOD.decode().encode("utf-16")): r"line 1: not UTF-8 \(byte 0xff\)",
    ("rows.jsonl", GOOD + b"[" * 100_000): "from line 2 on: nested too deeply",
    ("rows.json", b'[{"prompt": "a"},\n {"prompt": }\n]'): "line 2, column 13: Expecting value",
    ("rows.json", b'[{"prompt": "a"}, 3]'): "item 2: not an object",
    ("rows.csv", b"prompt,completion\na,b\na,b,c\n"): "line 3: not as many fields as the header",
    ("rows.csv", b"sep=;\r\nprompt;completion\r\na,b;c\r\n"): "line 1: fields are separated by ';'",
    ("rows.csv", b"prompt\tcompletion\na, b\tc\n"): r"line 1: fields are separated by '\\t'; must",
    ("rows.csv", b"prompt,completion\na\n"): "line 2: not as many fields as the header",
    ("rows.csv", b'prompt,completion\na,b\na,"b\n'): "after line 2: unexpected end of data",
    (
        "rows.csv",
        "prompt,completion\na,b\né,b\n".encode("latin-1"),
    ): r"line 3: not UTF-8 \(byte 0xe9\)",
    (
        "rows.jsonl",
        GOOD + b'{"prompt": "a", "completion": "b", "prompt": "c"}\n',
    ): "line 2: 'prompt' twice",
    (
        "rows.jsonl",
        b'{"messages": [{"role": "user", "role": "user"}]}',
    ): "line 1: 'role' twice in one obj",
    (
        "rows.json",
        b'[{"prompt": "a"},\n\n {"prompt": "b", "x": [{"y": 1, "y": 2}]}\n]',
    ): "line 3: 'y' twice in one object",
    ("rows.json", b'[{"prompt": "a"}\n {"prompt": "b"}]'): "line 2, column 2: Expecting ',' del",
    ("rows.json", b'[{"prompt": "a"}]\n[]'): "line 2, column 1: Extra data",
    ("rows.json", b'[{"prompt": "a"}, '): "line 1, column 19: Expecting value",
    ("rows.json", b'[{"prompt": "a"}'): "line 1, column 17: Expecting ',' delimiter",
    (
        "rows.json",
        b'{\n "data": [\n  {"prompt": "a"}',
    ): "line 3, column 18: Expecting ',' delimiter",
    ("rows.jsonl", b'{\n "prompt": "a"}'): "line 1, .*; in JSON lines an object stands on one line",
    ("rows.csv", b"prompt,completion,prompt\na,b,c\n"): "line 1: the header has prompt twice",
    ("rows.csv", b"\nprompt,,completion,completion,\n"): "line 2: the header has completion twice",
    ("rows.jsonl.gz", gzip.compress(GOOD * 2000)[:-20]): "line [0-9]+: .*ended before",
    ("rows.jsonl.gz", GOOD): "line 1: Not a gzipped file",
    ("rows.jsonl.xz", b"nothing of xz"): "line 1: .*not supported",
    ("rows.parquet", b"PAR1 not really"): "parquet|Parquet",
}


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path, name, content, monkeypatch, caplog
):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=BROKEN[name, content]) as caught:
        rows(tmp_path / name)
    assert str(caught.value).startswith(f"data.path={tmp_path / name}") and "\n" not in str(
        caught.value
    )
    assert not caplog.records  # the error is all that is told


def test_parquet_with_a_name_twice_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    texts = pyarrow.array(["a"])
    parquet.write_table(pyarrow.Table.from_arrays([texts] * 3, ["prompt", "text", "text"]), path)
    with pytest.raises(ConfigError, match=r"^data.path=.*rows.parquet: has the column text twice$"):
        rows(path)
    turn = pyarrow.StructArray.from_arrays([texts, texts, texts], ["role", "content", "role"])
    turns = pyarrow.ListArray.from_arrays([0, 1], turn)
    parquet.write_table(pyarrow.table({"messages": turns}), path)
    with pytest.raises(ConfigError, match="has the column messages.list.element.role twice$"):
        rows(path)


def test_a_column_may_have_no_name(tmp_path):
    """Pandas writes its index so, and a comma at the end of each line makes one."""
    path = tmp_path / "rows.csv"
    path.write_text(",prompt,completion,\n0,a,b,\n1,c,d,\n")
    assert rows(path)["train"][1] == {"prompt": "c", "completion": "d", "": "1"}
    data = load_dataset(Data("test", str(path)), plain(), 96)
    assert data.summary().startswith(
        "train 2 rows, validation 0 rows, test 0 rows; "
        "not read: columns (a column without a name) (2 rows)"
    )
    assert data.example == "### Instruction:\na\n\n### Response:\n«b<|end|>»"


def test_an_object_over_several_lines_is_one_row(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(pairs(1)[0], indent=2))
    assert rows(path) == {"train": pairs(1)}
    path.write_text(json.dumps({"data": pairs(3)}, indent=2))
    with pytest.raises(
        ConfigError, match="has columns data; needs .*; if data holds the rows, save"
    ):
        load_dataset(Data("test", str(path)), plain(), 96)


def test_packed_parquet_is_refused_by_its_name(tmp_path):
    (tmp_path / "rows.parquet.gz").write_bytes(b"")
    for path in (tmp_path, tmp_path / "rows.parquet.gz"):
        with pytest.raises(
            ConfigError,
            match="ends? in .jsonl .json .csv, perhaps with .gz or .xz after it, or .parq",
        ):
            Data("test", str(path)).check()


# ---------------------------------------------------------------- sets of the hub, by a copy of one on this machine
@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A folder as a set of the hub has it: two subsets, one of them with a test split."""
    folder = tmp_path_factory.mktemp("copied")
    for name, count in {
        "main/train-0.parquet": 20,
        "main/test-0.parquet": 5,
        "other/train-0.parquet": 3,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_parquet(
            folder / name,
            [{"question": f"{name} {n}", "answer": f"#### {n}"} for n in range(count)],
        )
    (folder / "README.md").write_text("""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: other
  data_files:
  - {split: train, path: other/train-*}
---
""")
    return folder


@pytest.mark.parametrize("streaming", [True, False])
def test_a_subset_is_read_streamed_or_not(copied, streaming):
    found = open_with_datasets(
        Data("test", str(copied)), str(copied), "main", streaming=streaming
    ).read()
    rows = {name: list(items) for name, items in found.items()}
    assert {name: len(items) for name, items in rows.items()} == {"train": 20, "test": 5}
    assert rows["test"][1].values == {"question": "main/test-0.parquet 1", "answer": "#### 1"}
    assert rows["test"][1].location == f"{copied}: test row 2"


def test_streaming_fetches_no_more_than_is_taken(copied):
    taken = iter(
        open_source(Data("test", str(copied), subset="other", streaming=True, limit=1)).read()[
            "train"
        ]
    )
    assert next(taken).values["answer"] == "#### 0"


def test_an_unknown_subset_is_refused_with_those_there_are(copied):
    with pytest.raises(ConfigError, match=r"^data.subset=nope: .*main.*other"):
        open_source(Data("test", str(copied), subset="nope"))


def test_without_the_hub_the_error_is_one_line():
    for data in (
        Data("gsm8k", "openai/gsm8k", subset="main"),
        Data("c4", "allenai/c4", streaming=True, limit=1),
    ):
        with pytest.raises(ConfigError) as caught:
            open_source(data)
        line = str(caught.value)
        assert (
            line.startswith(f"data.path={data.path}: Couldn't reach '{data.path}' on the Hub")
            and "\n" not in line
        )
