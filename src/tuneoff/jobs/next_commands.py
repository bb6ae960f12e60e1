"""Next commands: what can be done with what a run or a sweep has left, ready to be pasted."""

import shlex
from collections.abc import Iterator
from pathlib import Path

OFFLINE_RUN = "offline-run-*"  # as W&B names the folder of one


def list_wandb_commands(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (what it does, command) for the offline runs of W&B below a folder; nothing where there are none."""
    runs = sorted(folder.glob(f"**/wandb/{OFFLINE_RUN}"))
    if not runs:
        return
    depths = sorted({len(run.relative_to(folder).parts) - 1 for run in runs})
    start = shlex.quote(str(folder))
    patterns = []
    for depth in depths:
        between = "*/" * (depth - 1)
        patterns.append(f"{start}/{between}wandb/{OFFLINE_RUN}")
    yield "W&B, upload", f"wandb sync {' '.join(patterns)}"
    if depths == [1]:
        yield "W&B, here", f"wandb leet {shlex.quote(str(runs[-1]))}"


def describe_results(folder: Path) -> list[str]:
    """Return the lines that end a sweep: how to upload it, where it lies, and how to report on it."""
    lines = [f"{name}: {command}" for name, command in list_wandb_commands(folder)]
    lines.append(f"results: {folder}")
    lines.append(f"report: python -m tuneoff report {shlex.quote(str(folder))}")
    return lines
