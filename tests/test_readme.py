"""README's own examples, word for word: a method in a folder of one's own, and a YAML of one's own."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import QUICK, ROOT

NAMED_BLOCK = re.compile(r"`(mine/\S+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
SHELL_BLOCK = re.compile(r"```bash\n(.*?)\n```", re.DOTALL)


def section(title: str) -> str:
    """A section of README."""
    _, _, after = (ROOT / "README.md").read_text().partition(f"\n## {title}\n")
    return after.partition("\n## ")[0]


def write_files(text: str, folder) -> list[str]:
    """Write each block below a file's name into that file; returns the names."""
    names = []
    for name, content in NAMED_BLOCK.findall(text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        names.append(name)
    return names


def paste(command: str, folder, *overrides: str) -> subprocess.CompletedProcess:
    """Run a line as a shell would in a folder that has train.py and conf, with what makes it quick behind it."""
    shutil.copy(ROOT / "train.py", folder / "train.py")
    if not (folder / "conf").exists():
        shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "bin").mkdir(exist_ok=True)
    if not (folder / "bin" / "python").exists():
        (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (folder / "bin" / "python").chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = " ".join(f"'{word}'" for word in [*QUICK, "hydra.run.dir=run", *overrides])
    return subprocess.run(
        f"{command} {words}",
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_method_in_readme_trains_as_it_stands(tmp_path, debug_model):
    text = section("Add a method")
    names = write_files(text, tmp_path)
    assert names == ["mine/tuneoff/methods/bitfit.py", "mine/conf/method/bitfit.yaml"]
    (command,) = SHELL_BLOCK.findall(text)
    done = paste(command, tmp_path, f"model.path={debug_model}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["method"] == "bitfit" and result["config"]["lr"] == 1e-2
    assert 0 < result["parameters"]["trainable"] == result["parameters"]["ever_trained"] < 1000
    explained = subprocess.run(
        command.replace("method=bitfit", "--help method=bitfit"),
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert "Biases and norms train" in explained.stdout, explained.stderr


@pytest.mark.slow
def test_the_yaml_in_readme_runs_as_it_stands(tmp_path, debug_model):
    assert write_files(section("Train"), tmp_path) == ["mine/my.yaml"]
    command = "python train.py -cd mine -cn my"
    assert command in (ROOT / "README.md").read_text()
    # The debug model's matrices are smaller than README's rank.
    done = paste(command, tmp_path, f"model.path={debug_model}", "galore_rank=8", "max_steps=1")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["method"] == "galore" and result["config"]["max_steps"] == 1
    refused = paste(command, tmp_path, f"model.path={debug_model}", "lora_rank=8")
    assert refused.returncode == 2 and "method=galore" in refused.stderr


# ---------------------------------------------------------------- the comparison
def load_comparison():
    """The script that renews README's comparison, as a module."""
    path = ROOT / "sweeps" / "comparison.py"
    spec = importlib.util.spec_from_file_location("comparison", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_readme_says_is_told_apart_is_what_its_table_marks():
    script = load_comparison()
    _, _, rest = (ROOT / "README.md").read_text().partition(script.BEGIN)
    table, sentence, *_ = rest.strip().split("\n\n")
    assert " ".join(sentence.split()) == script.describe_table(table)


def test_the_sentence_follows_the_marks():
    script = load_comparison()
    head = "| Method | Test loss | Δ |\n|:--|--:|--:|\n"
    rows = [
        "| full | 3.2 | baseline |",
        "| lora | **3.0** | -0.2 \\* |",
        "| dora | **3.0** | -0.1 |",
    ]
    assert script.describe_table(head + "\n".join(rows)) == (
        "By this table's tests lora and dora cannot be told apart as the best. Different from full: lora; "
        "not told apart from it: dora."
    )
