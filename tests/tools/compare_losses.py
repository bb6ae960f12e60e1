"""Compares two checkouts' trainings, bit by bit: compare_losses.py OLD_TREE NEW_TREE [STEPS [METHOD … KEY=VALUE …]].

Every method of conf/method, or those that are named, trains STEPS steps (20) from each tree on the embedded problem,
one thread, and saves its model. Settings that follow hold in both trees: give those whose default has changed between.
Start it with a Python that has the packages, and not tuneoff itself: what is installed would be mixed in.
What does not depend on the clock must be equal: each step's loss, gradient norm and rate, and the saved tensors. Prints
a line a method; the exit code is 1 where any differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SETTINGS = ("eval_every=10", "tracker=none", "progress=false", "save_model=true")
# What no clock and no other version of the record changes.
COMPARED = {"step", "loss", "validation_loss", "test_loss", "lr", "gradient_norm", "tokens"}


def train(tree: Path, folder: Path, words: Sequence[str]) -> None:
    """Train one method from a checkout, in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TUNEOFF_CACHE": str(folder.parent / "cache"),
    }
    subprocess.run(
        [sys.executable, "train.py", f"hydra.run.dir={folder}", *SETTINGS, *words],
        cwd=tree,
        env=environment,
        check=True,
        capture_output=True,
    )


def read_trajectory(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: line[key] for key in line.keys() & COMPARED} for line in lines]


def read_tensors(folder: Path) -> dict[str, bytes]:
    """The bytes of each tensor that was saved, by file and name."""
    from safetensors import safe_open

    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if "checkpoints" in path.parts:
            continue
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 (a file of tensors is no mapping)
                tensors[f"{path.relative_to(folder)}: {name}"] = file.get_tensor(name).tobytes()
    return tensors


def main(old: Path, new: Path, steps: int = 20, words: Sequence[str] = ()) -> int:
    """Compare all methods, or those that are named, under the settings among the words; returns the exit code."""
    differing = 0
    methods = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word]
    found = sorted(path.stem for path in (new / "conf" / "method").glob("*.yaml"))
    for method in methods or found:
        with tempfile.TemporaryDirectory() as scratch:
            folders = [Path(scratch, side, "run") for side in ("old", "new")]
            for tree, folder in zip((old, new), folders, strict=True):
                train(tree, folder, [f"method={method}", f"max_steps={steps}", *settings])
            one, other = map(read_trajectory, folders)
            same_losses = one == other
            same_tensors = read_tensors(folders[0]) == read_tensors(folders[1])
        final = [line["validation_loss"] for line in other if "validation_loss" in line][-1]
        differing += not (same_losses and same_tensors)
        print(
            f"{method:<18} final loss {final:.6f}  "
            f"losses {'equal' if same_losses else 'DIFFER'}  "
            f"saved tensors {'equal' if same_tensors else 'DIFFER'}",
            flush=True,
        )
    return int(differing > 0)


if __name__ == "__main__":
    old_tree, new_tree, *rest = sys.argv[1:]
    sys.exit(main(Path(old_tree), Path(new_tree), *map(int, rest[:1]), words=rest[1:]))
