"""Exactly the named parquet file is read, and each value as its type means it."""

import os
import re

import pyarrow
import pytest
from pyarrow import parquet
from sets import plain

from tuneoff.config import ConfigError, Data
from tuneoff.data import load_dataset
from tuneoff.data.hub import open_with_datasets
from tuneoff.data.sources import open_source


def write_table(path, **columns):
    """A parquet file of these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        parquet.write_table(pyarrow.table(columns), file)
    return path


def read(path) -> dict[str, list[dict]]:
    """The rows of a file or folder by split."""
    splits = open_source(Data("test", str(path))).read()
    return {split: [row.values for row in rows] for split, rows in splits.items()}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("run[1].parquet", "run1.parquet"),
        ("b*.parquet", "bb.parquet"),
        ("a?.parquet", "ab.parquet"),
        ("x::y.parquet", "y.parquet"),
        ("{a,b}.parquet", "a.parquet"),
        ("v[2]/rows.parquet", "v2/rows.parquet"),
        (os.fsdecode(b"folder\xff/rows.parquet"), "rows.parquet"),
    ],
)
def test_a_files_name_is_no_pattern(tmp_path, name, other):
    write_table(tmp_path / other, prompt=["q"], completion=["of another file"])
    path = write_table(tmp_path / name, prompt=["q"], completion=["of this file"])
    assert read(path) == {"train": [{"prompt": "q", "completion": "of this file"}]}


def test_a_copy_of_a_hubs_set_under_a_name_that_is_a_pattern_is_refused(tmp_path):
    write_table(tmp_path / "v[2]/train.parquet", prompt=["q"], completion=["a"])
    for settings in ({"subset": "default"}, {"streaming": True, "limit": 1}):
        data = Data("test", str(tmp_path / "v[2]"), **settings)
        with pytest.raises(
            ConfigError, match=r"^data.path=.*v\[2\]: its full path holds one of .* rename"
        ):
            data.check()
    Data("test", str(tmp_path / "v[2]")).check()


def test_a_pattern_in_the_working_folders_name_counts_too(tmp_path, monkeypatch):
    write_table(tmp_path / "v[2]/rows/train.parquet", prompt=["q"], completion=["a"])
    monkeypatch.chdir(tmp_path / "v[2]")
    with pytest.raises(ConfigError, match="^data.path=rows: its full path holds one of"):
        Data("test", "rows", subset="default").check()
    Data("test", "rows").check()


def test_an_error_names_the_file_of_a_folder(tmp_path):
    write_table(tmp_path / "a.parquet", prompt=["q"], completion=["a"])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match=r"^data.path=.*b.parquet: Parquet"):
        read(tmp_path)


def test_a_file_without_rows_adds_none(tmp_path):
    no_texts = pyarrow.array([], pyarrow.string())
    path = write_table(tmp_path / "b.parquet", prompt=no_texts, completion=no_texts)
    with pytest.raises(ConfigError, match=f"^data.path={re.escape(str(path))}: no training rows$"):
        load_dataset(Data("test", str(path)), plain(), 96)
    write_table(tmp_path / "a.parquet", prompt=["q"] * 300, completion=["a"] * 300)
    assert len(read(tmp_path)["train"]) == 300


def write_classes(path):
    """A file as `datasets` writes it, whose answers and splits are classes."""
    import datasets

    texts = datasets.Value("string")
    answers = datasets.ClassLabel(names=["no", "yes"])
    splits = datasets.ClassLabel(names=["train", "test"])
    columns = {"prompt": texts, "completion": answers, "split": splits}
    columns["more"] = datasets.List({"kind": answers})
    rows = {"prompt": ["a", "b", "c"], "completion": [1, 0, -1], "split": [0, 1, 0]}
    rows["more"] = [[{"kind": 1}], [], [{"kind": None}]]
    written = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    written.to_parquet(path)
    return path


def test_a_class_is_given_by_its_name_and_none_is_made_up(tmp_path):
    rows = read(write_classes(tmp_path / "rows.parquet"))
    assert [row["completion"] for row in rows["train"]] == ["yes", None]
    assert [row["completion"] for row in rows["test"]] == ["no"]
    assert [row["more"] for row in rows["train"]] == [[{"kind": "yes"}], [{"kind": None}]]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_class_of_a_hubs_set_is_given_by_its_name(tmp_path, monkeypatch, streaming):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write_classes(tmp_path / "copy/train.parquet")
    data = Data("test", str(path.parent))
    rows = open_with_datasets(data, str(path.parent), streaming=streaming).read()["train"]
    assert [row.values["completion"] for row in rows] == ["yes", "no", None]


def test_a_float_of_few_bits_has_the_digits_that_it_was_written_with(tmp_path):
    numbers = [0.1, 1.5, 16777216.0, 3.14159, None]
    columns = {
        "single": pyarrow.array(numbers, pyarrow.float32()),
        "half": pyarrow.array([0.1, 1.5, 2048.0, 3.14, None], pyarrow.float16()),
        "double": [0.1 + 0.2, 1e16, 0.1, 1 / 3, None],
        "listed": pyarrow.array([[0.1], [], [0.7], None, [1.0]], pyarrow.list_(pyarrow.float32())),
    }
    rows = read(write_table(tmp_path / "rows.parquet", **columns))["train"]
    columns["single"] = numbers
    columns["half"] = [0.1, 1.5, 2048.0, 3.14, None]
    columns["listed"] = [[0.1], [], [0.7], None, [1.0]]
    for name, values in columns.items():
        assert [row[name] for row in rows] == values, name


def test_json_in_parquet_stays_what_datasets_makes_of_it(tmp_path):
    import datasets

    mixed = [[{"weight": 1, "content": "a"}, {"content": ["b"]}]]
    written = datasets.Dataset.from_dict({"messages": mixed}, on_mixed_types="use_json")
    written.to_parquet(tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == {"train": [{"messages": mixed[0]}]}
