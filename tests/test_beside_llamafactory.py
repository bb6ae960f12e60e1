"""This project and LLaMA-Factory itself, from one YAML on the same rows: equal first losses, and types of weights.

Skipped unless TUNEOFF_LLAMAFACTORY names a Python in whose environment LLaMA-Factory 0.9.5 is installed, one of its own:
`python3 -m venv lf && lf/bin/pip install llamafactory==0.9.5 torch==2.13.0`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, bound, inherited_environment, prepare_run, save_debug_model

from tuneoff import record
from tuneoff.cli.llamafactory.command import list_words
from tuneoff.cli.llamafactory.translate import translate

PYTHON = os.environ.get("TUNEOFF_LLAMAFACTORY")
# As its command does, and without rounding what it logs.
RUNNER = """
import json, sys, yaml
from llamafactory.train import tuner
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from transformers import Trainer
Trainer.create_model_card = lambda *args, **options: None  # it ends in an error for whole models
losses = []
types = {}
compute = CustomSeq2SeqTrainer.compute_loss
def compute_and_keep(self, *args, **options):
    loss = compute(self, *args, **options)
    for name, weight in args[0].named_parameters():
        types[name.removeprefix("module.")] = str(weight.dtype)
    losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
    return loss
CustomSeq2SeqTrainer.compute_loss = compute_and_keep
tuner.run_exp(yaml.safe_load(open(sys.argv[1])))
json.dump({"losses": losses, "types": types}, open(sys.argv[2], "w"))
"""
METHODS = {
    "full": {"finetuning_type": "full"},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 2},
    "lora": {"finetuning_type": "lora"},
    "dora": {"finetuning_type": "lora", "use_dora": True},
    "rslora": {"finetuning_type": "lora", "use_rslora": True},
    "loraplus": {"finetuning_type": "lora", "loraplus_lr_ratio": 16.0},
    "galore": {
        "finetuning_type": "full",
        "use_galore": True,
        "galore_rank": 8,
        "optim": "adamw_torch",  # its GaLore refuses the fused AdamW, which is transformers' default by now
    },
}
ROWS = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="TUNEOFF_LLAMAFACTORY names no Python"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model, and a set of as many rows as a step has: whatever their order, each step sees them all."""
    place = tmp_path_factory.mktemp("beside")
    save_debug_model(place / "model")
    data = place / "data"
    data.mkdir()
    rows = []
    for number in range(ROWS):
        answer = f"It is {2 * number}. " * (number + 1)
        rows.append({"instruction": f"What is {number} + {number}?", "input": "", "output": answer})
    (data / "sums.json").write_text(json.dumps(rows))
    (data / "dataset_info.json").write_text('{"sums": {"file_name": "sums.json"}}')
    return place


def save_adapter(folder: Path, **options) -> Path:
    """An adapter with drawn A and B, from which both go on: each draws a new one in its own way."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place = folder / f"adapter_{'_'.join(options) or 'plain'}"
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(3)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM", **options
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model"), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    model.save_pretrained(place)
    return place


def write_yaml(folder: Path, method: str, **more) -> Path:
    """The file that both read."""
    values = {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "dataset": "sums",
        "dataset_dir": str(folder / "data"),
        "template": "alpaca",
        "cutoff_len": 128,
        "output_dir": str(folder / f"out_{method}"),
        "overwrite_output_dir": True,
        "save_strategy": "no",
        "per_device_train_batch_size": ROWS,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_gradient_checkpointing": True,
        **METHODS[method],
        **more,
    }
    if values["finetuning_type"] == "lora":
        options = {key: True for key in ("use_dora", "use_rslora") if key in values}
        values["adapter_name_or_path"] = str(save_adapter(folder, **options))
    path = folder / f"{'_'.join([method, *more])}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_llamafactory(folder: Path, file: Path) -> dict:
    """The losses that LLaMA-Factory computes, and the types of its weights by name."""
    script = folder / "runner.py"
    script.write_text(RUNNER)
    losses = folder / f"{file.stem}.json"
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": ""}
    environment["DISABLE_VERSION_CHECK"] = "1"
    environment.pop("PYTHONPATH", None)
    command = [str(PYTHON), str(script), str(file), str(losses)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(losses.read_text())


def run_ours(folder: Path, file: Path) -> list[float]:
    """The losses that this project computes."""
    place = folder / f"ours_{file.stem}"
    words = [f"llamafactory={file}", f"hydra.run.dir={place}", "progress=false"]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    environment = inherited_environment()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line["loss"] for line in record.read_metrics(place) if "loss" in line]


@pytest.mark.parametrize("method", METHODS)
def test_the_first_losses_are_those_of_llamafactory(folder, method):
    file = write_yaml(folder, method)
    expected = run_llamafactory(folder, file)["losses"]
    ours = run_ours(folder, file)
    print(f"{method}: {expected} there, {ours} here")
    assert len(ours) == len(expected) == 3
    assert ours == pytest.approx(expected, rel=0, abs=1e-5)


@pytest.mark.parametrize("method", ["freeze", "lora"])
def test_under_bf16_each_weight_has_the_type_that_it_has_there(folder, method):
    """What is frozen is bfloat16, as in the checkpoint, and what trains float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="bfloat16")
    place = folder / "bfloat16"
    base.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(place)
    options = {"bf16": True, "model_name_or_path": str(place)}
    file = write_yaml(folder, method, **options)
    # Without it transformers looks for bfloat16 on a GPU.
    beside = write_yaml(folder, method, **options, use_cpu=True)
    expected = run_llamafactory(folder, beside)["types"]
    ours = {key: value for key, value in translate(file).words.items() if key != "hydra.run.dir"}
    words = list_words(ours)
    experiment, chosen, config = bound(*words, "tracker=none")
    run = prepare_run(experiment, chosen, folder / f"types_{method}", config)
    types = {name: str(weight.dtype) for name, weight in run.parts.model.named_parameters()}
    assert set(expected.values()) == {"torch.float32", "torch.bfloat16"}
    assert types == expected
