"""Chat: a saved model answers as it was trained to, alone or beside another; a folder without one is a line."""

import argparse
import io
import json
import shutil
import subprocess
import sys

import pytest
from helpers import TINY, bound, prepare_run

from tuneoff.cli import chat


def ask(*arguments: object, typed: str = "") -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "tuneoff", "chat", *map(str, arguments)]
    return subprocess.run(words, input=typed, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_settings):
    """Two runs with a saved model: an adapter, and a whole one."""
    folders = []
    for method in ("lora", "full"):
        folder = tmp_path_factory.mktemp(method)
        words = [f"method={method}", "save_model=true", "data.limit=24", "max_steps=1", "lr=1e-2"]
        experiment, chosen, config = bound(*small_settings(words))
        training = prepare_run(experiment, chosen, folder, config)
        training.fit()
        training.conclude()
        folders.append(folder)
    return folders


def test_a_run_is_asked_as_it_was_trained(runs):
    """The prompt's tokens are those of a training row up to its answer, in the template of the record."""
    from tuneoff.training.saved_model import SavedModel

    for folder in runs:
        saved = SavedModel(folder)
        record = json.loads((folder / "run.json").read_text())
        assert saved.template.name == record["provenance"]["data"]["template"] == "plain"
        prompt = saved._encode_prompt([{"role": "user", "content": "Say it."}])
        text = saved.tokenizer.decode(prompt)
        assert text.endswith("### Instruction:\nSay it.\n\n### Response:\n")
        assert isinstance(saved.answer([{"role": "user", "content": "Say it."}], 4), str)
    assert type(SavedModel(runs[0]).model).__name__.startswith("Peft")


class Echo:
    """Answers with how many turns it was given."""

    def answer(self, conversation, max_new_tokens):
        return f"{len(conversation)} of {max_new_tokens}"


def test_a_line_is_a_turn_and_new_forgets_those_before(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n/new\nthree\n"))
    options = argparse.Namespace(folders=["a"], prompt=None, max_new_tokens=8)
    chat.chat([Echo()], options)
    assert capsys.readouterr().out.splitlines() == ["1 of 8", "3 of 8", "1 of 8"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # of UTF-8, and of the locale C
def test_bytes_that_are_no_text_are_replaced(monkeypatch, errors):
    typed = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nok\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", typed)
    assert list(chat.read_prompts(None)) == ["caf\N{REPLACEMENT CHARACTER}", "ok"]
    assert list(chat.read_prompts("caf\udce9")) == ["caf\N{REPLACEMENT CHARACTER}"]
    assert list(chat.read_prompts("café")) == ["café"]


@pytest.mark.slow
def test_a_prompt_that_is_no_text_is_answered():
    done = ask(TINY, "--max-new-tokens", 4, "--prompt", "caf\udce9")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


@pytest.mark.slow
def test_one_model_answers_each_line_and_two_stand_side_by_side(runs, monkeypatch):
    alone = ask(TINY, "--max-new-tokens", 8, typed="def f(): return 1\n\n/new\n")
    assert (alone.returncode, alone.stderr) == (0, "") and alone.stdout.strip()
    monkeypatch.setenv("COLUMNS", "120")
    both = ask(*runs, "--max-new-tokens", 8, "--prompt", "def f(): return 1")
    assert (both.returncode, both.stderr) == (0, "")
    head = both.stdout.splitlines()[0]
    assert " │ " in head and all(len(line) <= 120 for line in both.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "must be a run's folder"),
        (["empty"], "holds no saved model: train with save_model=true"),
        ([TINY, TINY, TINY], "a third folder"),
        ([TINY, "--max-new-tokens", "0"], "must be at least 1"),
        pytest.param(["torn"], "cannot be loaded", marks=pytest.mark.slow),
        pytest.param(["cut"], "cannot be loaded: ", marks=pytest.mark.slow),
        pytest.param(["sizes"], "cannot be loaded: ", marks=pytest.mark.slow),
        pytest.param(
            ["adapter"], "base of its adapter is no longer at /gone", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_answer_is_refused_in_a_line(tmp_path, monkeypatch, arguments, said):
    (tmp_path / "empty").mkdir()
    shutil.copytree(TINY, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").unlink()
    for name in ("cut", "sizes", "adapter"):
        shutil.copytree(TINY, tmp_path / name)
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = json.loads((tmp_path / "sizes" / "config.json").read_text())
    (tmp_path / "sizes" / "config.json").write_text(json.dumps({**config, "hidden_size": 96}))
    base = {"base_model_name_or_path": "/gone", "peft_type": "LORA"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(base))
    monkeypatch.chdir(tmp_path)
    done = ask(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr


def test_answers_stand_below_each_other_in_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert chat.format_answers(["a", "b"], ["one", "two"]) == "a:\none\n\nb:\ntwo"
