"""This project beside LLaMA-Factory: CPU seconds of the whole process, from one YAML on the same rows and model.

Run: TUNEOFF_LLAMAFACTORY=lf/bin/python python tests/benchmarks/beside_llamafactory.py ROWS.jsonl [--pairs 3] [--rows 64]
[--cells full:plain,lora:grouped]. ROWS has the columns question and answer, as GSM8K's; LLaMA-Factory 0.9.5 is installed
in an environment of its own (see tests/test_beside_llamafactory.py). The embedded model, float32, one thread, one epoch,
cut at 512, 8 rows a step (packed: 2). The two take turns; a cell is its median seconds, and the median of the pairs'
ratios with their range. Both are counted from Python's start to its end: imports, reading and training, no evaluation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "tuneoff" / "assets" / "tiny"
RUNNER = "import sys, yaml; from llamafactory.train import tuner; tuner.run_exp(yaml.safe_load(open(sys.argv[1])))"
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


def count_seconds(command: list[str], folder: Path) -> float:
    """CPU seconds of a process and of those it has started.

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
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    return usage.ru_utime + usage.ru_stime


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
    timed: list[tuple[float, float]] = []
    for pair in range(pairs):
        sides = [theirs, ours] if pair % 2 == 0 else [ours, theirs]
        seconds = [count_seconds(side, folder) for side in sides]
        timed.append((seconds[0], seconds[1]) if pair % 2 == 0 else (seconds[1], seconds[0]))
    ratios = [first / second for first, second in timed]
    peer_seconds, own_seconds = (statistics.median(side) for side in zip(*timed, strict=True))
    return (
        f"{cell:16}  {peer_seconds:13.1f}  {own_seconds:6.1f}  {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
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
    print(f"{told.rows} rows, {told.pairs} pairs: CPU seconds of the whole process")
    print("cell              LLaMA-Factory    here  ratio")
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        write_data(told.rows_file, told.rows, Path(folder))
        for cell in told.cells.split(","):
            print(measure_cell(cell, told.pairs, peer, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
