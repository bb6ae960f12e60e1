"""Answers that a set for KTO marks as bad are refused or left out, whatever the mark is written as."""

import pytest
from sets import pairs, plain, write_lines

from tuneoff.config import Columns, ConfigError, Data
from tuneoff.data import load_dataset


def load_marked(folder, marks: list, **settings):
    """A set of pairs of which each has a `label`."""
    rows = [row | {"label": mark} for row, mark in zip(pairs(len(marks)), marks, strict=True)]
    path = write_lines(folder / "rows.jsonl", rows)
    return load_dataset(Data("test", str(path), **settings), plain(), 96)


@pytest.mark.parametrize("good", [1, "1", 1.0, True])
@pytest.mark.parametrize("bad", [0, "0", 0.0, False, "False"])
def test_numbers_mark_bad_answers_where_a_column_has_no_others(tmp_path, good, bad):
    with pytest.raises(ConfigError, match=r"line 3: label is .*not to be learned; .*=skip leaves"):
        load_marked(tmp_path, [good, good, bad])
    loaded = load_marked(tmp_path, [good, good, bad], on_bad_row="skip")
    assert len(loaded.splits["train"]) == 2 and loaded.unread["skipped_rows"] == 1


def test_a_class_is_no_verdict(tmp_path):
    assert len(load_marked(tmp_path, [0, 1, 2, 0]).splits["train"]) == 4
    # Whatever part of the set is trained, and wherever in it another class stands.
    assert len(load_marked(tmp_path, [0] * 1100 + [2], limit=3).splits["train"]) == 3
    # Nor is a column that the answers are read from.
    columns = Columns(prompt="prompt", completion="label")
    loaded = load_marked(tmp_path, ["false", "true", "0"], columns=columns)
    assert len(loaded.splits["train"]) == 3
