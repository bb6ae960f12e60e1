"""A twelfth method is one Python file and one YAML in a folder of its own; no other file knows of it."""

import json
import os
import subprocess
import sys

from helpers import QUICK, ROOT

CODE = '''
"""BitFit: only biases and norms train (Ben Zaken et al. 2022)."""
from dataclasses import dataclass
from tuneoff.config import at_least
from tuneoff.methods import Method, register


@register
@dataclass
class BitFit(Method):
    """Vectors train, matrices do not."""
    packages = ("pytest",)
    bitfit_most: int = at_least(100, 1)

    def prepare(self, model):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
        return model
'''
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
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


def test_a_method_from_another_folder_trains(tmp_path, debug_model):
    for path, text in (("tuneoff/methods/bitfit.py", CODE), ("conf/method/bitfit.yaml", YAML)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    refused = train(tmp_path, debug_model, "bitfit_most=0")
    assert (refused.returncode, refused.stderr.count("\n")) == (
        2,
        1,
    ) and "bitfit_most=0" in refused.stderr
    done = train(tmp_path, debug_model)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["method"] == "bitfit" and result["parameters"]["trainable"] == 7 * 64
    assert {"pytest", "peft", "galore-torch", "badam"} < result["provenance"]["versions"].keys()
    assert result["loss"]["final"] != result["loss"]["initial"]
