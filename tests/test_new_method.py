"""A twelfth method is one Python file and one YAML in a folder of its own; no other file knows of it."""

import json
import os
import subprocess
import sys

import pytest
from helpers import QUICK, ROOT

CODE = '''
"""BitFit: only biases and norms train (Ben Zaken et al. 2022)."""
from dataclasses import dataclass
from tuneoff.config import at_least
from tuneoff.methods._bitfit_parts import train_vectors
from {contract} import Method, register


@register
@dataclass
class BitFit(Method):
    """Vectors train, matrices do not."""
    packages = ("pytest",)
    bitfit_most: int = at_least(100, 1)

    def prepare(self, model):
        train_vectors(model)
        return model
'''
PARTS = """
def train_vectors(model):
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.ndim == 1)
"""
YAML = """# @package _global_
defaults:
  - /schema/bitfit
  - _self_

method: bitfit
lr: 1e-2
"""


def train(folder, model, *overrides):
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            *QUICK,
            f"hydra.searchpath=[file://{folder}/conf]",
            "method=bitfit",
            f"model.path={model}",
            f"hydra.run.dir={folder}/run",
            *overrides,
        ],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["tuneoff.methods", "tuneoff.config"])
def test_a_method_from_another_folder_trains(tmp_path, debug_model, contract):
    """The contract is found at its old place for a version too; a file that begins with `_` is no method itself."""
    files = {
        "tuneoff/methods/bitfit.py": CODE.replace("{contract}", contract),
        "tuneoff/methods/_bitfit_parts.py": PARTS,
        "conf/method/bitfit.yaml": YAML,
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    refused = train(tmp_path, debug_model, "bitfit_most=0")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1 and "bitfit_most=0" in refused.stderr
    done = train(tmp_path, debug_model)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["method"] == "bitfit" and result["parameters"]["trainable"] == 7 * 64
    assert {"pytest", "peft", "galore-torch", "badam"} < result["provenance"]["versions"].keys()
    assert result["loss"]["final"] != result["loss"]["initial"]


def test_a_file_that_begins_with_an_underscore_is_not_imported_as_a_method(tmp_path):
    methods = tmp_path / "tuneoff" / "methods"
    methods.mkdir(parents=True)
    (methods / "_half_written.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [sys.executable, "-c", "import tuneoff.methods as m; print(m.__file__)"],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "src" / "tuneoff" / "methods" / "__init__.py")
