"""Guards the shipped corpus: a leak between its splits would make every comparison built on it too good."""

import ast
import json
import lzma
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tuneoff.assets.corpus import build as build_corpus
from tuneoff.assets.corpus.build import fold
from tuneoff.assets.corpus.library import RELEASE, WrongRelease, find_functions

CORPUS = Path(build_corpus.__file__).parent
FILES = ("docstrings.jsonl.xz", "stdlib.jsonl.xz")


def read(name):
    """Returns the rows of a shipped file."""
    return [
        json.loads(line)
        for line in lzma.decompress((CORPUS / name).read_bytes()).decode().splitlines()
    ]


@pytest.fixture(scope="module")
def pairs():
    return read("docstrings.jsonl.xz")


@pytest.fixture(scope="module")
def texts():
    return read("stdlib.jsonl.xz")


def modules_by_split(rows):
    """Returns split -> its modules."""
    return {
        split: {row["module"] for row in rows if row["split"] == split}
        for split in sorted({row["split"] for row in rows})
    }


def test_files_are_small_and_licensed():
    for name in FILES:
        assert (CORPUS / name).stat().st_size <= 2_000_000
    licence = (CORPUS / "LICENSE.txt").read_text(encoding="utf-8")
    assert f"CPython {RELEASE}" in licence
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence


def test_splits_are_large_enough(pairs, texts):
    counts = Counter(row["split"] for row in pairs)
    assert set(counts) == {"train", "validation", "test"}
    assert counts["train"] >= 2000 and counts["validation"] >= 150 and counts["test"] >= 150
    assert 0.75 < counts["train"] / len(pairs) < 0.85
    characters = Counter()
    for row in texts:
        characters[row["split"]] += len(row["text"])
    assert set(characters) == {"train", "validation"}
    assert characters.total() >= 4_500_000 and characters["validation"] >= 100_000


def test_each_module_has_one_role_and_one_split(pairs, texts):
    groups = [*modules_by_split(pairs).values(), *modules_by_split(texts).values()]
    assert len(set().union(*groups)) == sum(map(len, groups))
    assert len({row["module"] for row in texts}) == len(texts)


def test_no_text_of_a_pair_is_met_twice(pairs):
    # Wider than between splits: a repeat inside one would only count an example twice.
    for field in ("prompt", "completion"):
        assert len({fold(row[field]) for row in pairs}) == len(pairs)
    assert not {fold(row["prompt"]) for row in pairs} & {fold(row["completion"]) for row in pairs}


def test_no_evaluation_pair_is_in_the_pretraining_text(pairs, texts):
    held_out = [row for row in pairs if row["split"] != "train"]
    whole = fold("\n".join(row["text"] for row in texts))
    assert not [row["name"] for row in held_out if fold(row["prompt"]) in whole]
    # The text holds functions with their docstrings, which hides a copy from the search above.
    functions = [parts for row in texts for parts in find_functions(row["text"])]
    known = {fold(part) for _, *parts in functions for part in parts}
    assert not [
        row["name"] for row in held_out if {fold(row["prompt"]), fold(row["completion"])} & known
    ]


def test_every_pair_is_a_whole_function_without_its_docstring(pairs):
    for row in pairs:
        assert list(row) == ["split", "module", "name", "prompt", "completion"]
        prompt, completion = row["prompt"], row["completion"]
        assert (
            40 <= len(prompt) <= 1000
            and 12 <= len(completion) <= 240
            and len(completion.split()) >= 3
        )
        assert build_corpus.is_clean(prompt + completion) and "\n" not in completion
        assert fold(completion) not in fold(prompt)
        (function,) = ast.parse(prompt).body
        assert function.name == row["name"].rpartition(".")[2]
        assert build_corpus.has_body(prompt)


def test_no_function_keeps_a_docstring(pairs):
    kept = [row["name"] for row in pairs if ast.get_docstring(ast.parse(row["prompt"]).body[0])]
    assert not kept


def test_other_releases_are_refused(tmp_path):
    (tmp_path / "ast.py").write_text("pass\n", encoding="utf-8")
    with pytest.raises(WrongRelease):
        build_corpus.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    ".".join(map(str, sys.version_info[:3])) != RELEASE,
    reason=f"the corpus is rebuilt from the library of CPython {RELEASE}",
)
@pytest.mark.slow
def test_rebuilding_gives_the_same_bytes(tmp_path):
    build_corpus.build(Path(sysconfig.get_path("stdlib")), tmp_path)
    for name in FILES:
        new, shipped = (tmp_path / name).read_bytes(), (CORPUS / name).read_bytes()
        assert lzma.decompress(new) == lzma.decompress(
            shipped
        )  # first, as it does not depend on liblzma
        assert new == shipped
