"""This project beside LLaMA-Factory: CPU seconds and peak of the whole process, from one YAML on the same rows and model.

Run: TUNEOFF_LLAMAFACTORY=lf/bin/python python tests/benchmarks/beside_llamafactory.py ROWS.jsonl [--pairs 3] [--rows 64]
[--cells full:plain,lora:grouped]. ROWS has the columns question and answer, as GSM8K's; LLaMA-Factory 0.9.5 is installed
in an environment of its own (see tests/test_beside_llamafactory.py). The embedded model, float32, one thread, one epoch,
cut at 512, 8 rows a step (packed: 2). The two take turns; a cell is its median seconds, the median of the pairs' ratios
with their range, and the median of its highest resident memory. Both are counted from Python's start to its end: imports,
reading and training, no evaluation.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "tuneoff" / "assets" / "tiny"
# Without the model card, on which it ends in an error for whole models, once all is trained and saved.
RUNNER = """
import sys, yaml
from llamafactory.train import tuner
from transformers import Trainer
Trainer.create_model_card = lambda *args, **options: None
tuner.run_exp(yaml.safe_load(open(sys.argv[1])))
"""
METHODS = {
    "full": {"finetuning_type": "full"},
    "lora": {"finetuning_type": "lora"},
    "dora": {"finetuning_type": "lora", "use_dora": True},
    "galore": {
        "finetuning_type": "full",
        "use_galore": True,
        "galore_rank": 128,
        "optim": "adamw_torch",  # its GaLore refuses the fused one, which is transformers' default by now
    },
}
LAYOUTS = {
    "plain": {},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "packed": {"packing": True, "neat_packing": True, "per_device_train_batch_size": 2},
}


def save_model(folder: Path) -> None:
    """The embedded model in float32: a model stored in bfloat16 would train in it there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder / "model")


def write_data(source: Path, rows: int, folder: Path) -> None:
    """The first rows of a set as Alpaca's, which both read."""
    kept = []
    for line in source.read_text().splitlines()[:rows]:
        row = json.loads(line)
        kept.append({"instruction": row["question"], "input": "", "output": row["answer"]})
    (folder / "rows.json").write_text(json.dumps(kept))
    (folder / "dataset_info.json").write_text('{"rows": {"file_name": "rows.json"}}')


def write_yaml(cell: str, folder: Path) -> Path:
    """The file that both read."""
    method, _, layout = cell.partition(":")
    values = {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "alpaca",
        "cutoff_len": 512,
        "output_dir": str(folder / "out"),
        "overwrite_output_dir": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-4,
        "num_train_epochs": 1.0,
        "logging_steps": 1,
        "report_to": "none",
        "disable_gradient_checkpointing": True,
        **METHODS[method],
        **LAYOUTS[layout],
    }
    path = folder / f"{method}_{layout}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


class Cost(NamedTuple):
    """What a process took, with those it has started: CPU seconds, and the highest resident memory of one of them."""

    cpu_seconds: float
    peak_mib: float


class PeakWatch(threading.Thread):
    """Looks at the resident memory of a process and of those it has started, until it is gone.

    What the system says at its end (`ru_maxrss`) is no peak where a process has set it back, as this project's do at
    each phase.
    """

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.peak_mib = 0.0

    def run(self) -> None:
        """Look 20 times a second."""
        with contextlib.suppress(psutil.NoSuchProcess):
            while self.process.status() != psutil.STATUS_ZOMBIE:
                for one in [self.process, *self.process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        self.peak_mib = max(self.peak_mib, one.memory_info().rss / 2**20)
                time.sleep(0.05)


def measure_cost(command: list[str], folder: Path) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; the end of what it wrote says how.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "home"),
        "TUNEOFF_CACHE": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "DISABLE_VERSION_CHECK": "1",
    }
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=folder)
        watch = PeakWatch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, watch.peak_mib)


def measure_cell(cell: str, pairs: int, peer: str, folder: Path) -> str:
    """The line of a cell."""
    file = write_yaml(cell, folder)
    ours = [
        sys.executable,
        str(ROOT / "train.py"),
        f"llamafactory={file}",
        f"hydra.run.dir={folder}/ours",
        "rerun=true",
        "progress=false",
        "data.splits.validation=null",
    ]
    theirs = [peer, "-c", RUNNER, str(file)]
    costs: dict[str, list[Cost]] = {"theirs": [], "ours": []}
    commands = {"theirs": theirs, "ours": ours}
    for pair in range(pairs):
        # The first of a pair may find a warmer or a cooler machine: they take turns at it, too.
        for side in sorted(commands, reverse=pair % 2 == 0):
            costs[side].append(measure_cost(commands[side], folder))
    ratios = []
    for peer_cost, own_cost in zip(costs["theirs"], costs["ours"], strict=True):
        ratios.append(peer_cost.cpu_seconds / own_cost.cpu_seconds)
    peer_seconds = statistics.median(cost.cpu_seconds for cost in costs["theirs"])
    own_seconds = statistics.median(cost.cpu_seconds for cost in costs["ours"])
    peer_mib = statistics.median(cost.peak_mib for cost in costs["theirs"])
    own_mib = statistics.median(cost.peak_mib for cost in costs["ours"])
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    return (
        f"{cell:16}  {peer_seconds:13.1f}  {own_seconds:6.1f}  {statistics.median(ratios):.2f} {spread:14}  "
        f"{peer_mib:17,.0f}  {own_mib:8,.0f}"
    )


def main() -> None:
    """Print a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows_file", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    every = [f"{method}:{layout}" for method in METHODS for layout in LAYOUTS]
    parser.add_argument("--cells", default=",".join(every))
    told = parser.parse_args()
    peer = os.environ.get("TUNEOFF_LLAMAFACTORY")
    if peer is None:
        parser.error("TUNEOFF_LLAMAFACTORY must name a Python with LLaMA-Factory")
    print(
        f"{told.rows} rows, {told.pairs} pairs: CPU seconds and highest resident MiB of the whole process"
    )
    print(
        "cell              LLaMA-Factory    here  ratio                LLaMA-Factory MiB  here MiB"
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        write_data(told.rows_file, told.rows, Path(folder))
        for cell in told.cells.split(","):
            print(measure_cell(cell, told.pairs, peer, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
