"""Makes records of the shape that the loop writes, many and fast, with figures drawn under a fixed seed.

A module rather than a conftest.py: two of those in one suite hide each other from tests that import them by name.
"""

import copy
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tuneoff.report.compare import Comparison, make_comparisons
from tuneoff.report.reading import read_records

ROOT = Path(__file__).parents[2]
# Those of README's first table.
METHODS = sorted(re.findall(r"^\| (\w+) \| [\d.]+ %", (ROOT / "README.md").read_text(), re.M))
# By the schema in each method's YAML.
FAMILY_OF_SCHEMA = {
    "full": "full",
    "freeze": "partial",
    "lora": "low_rank",
    "galore": "projection",
    "badam": "block",
}


def family(method: str) -> str:
    """The family of a method of ours, as its record says it; of any other name none."""
    path = Path(__file__).parents[2] / "conf" / "method" / f"{method[:40]}.yaml"
    schemas = re.findall(r"/schema/(\w+)", path.read_text()) if method in METHODS else []
    return FAMILY_OF_SCHEMA.get(schemas[0], "other") if schemas else "other"


PROVENANCE = {
    "git": {"commit": "26bcf62e35745b22d5cb94819ec5f910254924ae", "dirty": False},
    "versions": {
        "python": "3.11.7",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "tuneoff": "0.1.0",
    },
    "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
    "threads": 2,
    "num_processes": 1,
    "sharding": "none",
    "precision": {"dtype": "float32", "mixed_precision": "no"},
    "base_weights_hash": "fdbc4afd4f5267d2",
    "data": {
        "rows": {"train": 2000, "validation": 200, "test": 200},
        "cut": 3,
        "dropped": 1,
        "template": "### Instruction:\n{prompt}\n\n### Response:\n",
        "fingerprint": "a9ac060482e10c4f",
    },
}
CONFIG = {
    "model": {"name": "tiny", "path": "tuneoff:tiny", "pretrained": True},
    "weight_decay": 0.0,
    "batch_size": 8,
    "data": {"name": "docstrings", "path": "tuneoff:docstrings", "limit": None},
    "max_steps": 200,
    "max_length": 256,
    "max_grad_norm": None,
    "pure_bf16": False,
    "tracker": "none",
    "tags": None,
}
TOTAL = 5_795_072


def record(
    method: str,
    seed: int = 0,
    *,
    lr: float = 1e-3,
    loss: float = 3.0,
    noise: float = 0.02,
    steps: int = 200,
    points: int = 60,
    status: str = "finished",
    speed: float = 4000.0,
    train_gib: float = 0.8,
    **config,
) -> dict:
    """One result. `loss` is the true final loss; a seed adds noise that all methods share, and as much of its own."""
    shared = np.random.default_rng(seed)
    own = np.random.default_rng(
        [seed, *method.encode(errors="surrogatepass"), *repr((lr, config)).encode()]
    )
    final = loss + noise * shared.standard_normal() + noise * own.standard_normal()
    place = (METHODS.index(method) + 1) / len(METHODS) if method in METHODS else 0.5
    finished = status == "finished"
    error = {
        "type": "RuntimeError",
        "message": f"{status} on purpose",
        "traceback": "Traceback (most recent …)",
    }
    return {
        "schema_version": 1,
        "identity": f"{seed:08x}",
        "sweep": "compare",
        "method": method,
        "family": family(method),
        "seed": seed,
        "planned_seeds": [0, 1, 2, 3, 4],
        "config": {**copy.deepcopy(CONFIG), **config, "method": method, "lr": lr, "seed": seed},
        "command": ["python", "train.py", f"method={method}", f"seed={seed}"],
        "provenance": copy.deepcopy(PROVENANCE) | {"batch_order_hash": f"order{seed}"},
        "budget": {"kind": "max_steps", "value": steps},
        "started_at": "2026-01-01T10:00:00+00:00",
        "facts": {},
        "parameters": dict.fromkeys(("trainable", "ever_trained"), round(TOTAL * place))
        | {"total": TOTAL},
        "status": status,
        "finished_at": f"2026-01-01T10:0{seed % 10}:00+00:00",
        "error": None if finished else error,
        "loss": {
            "initial": 4.0,
            "final": final if finished else None,
            "best": final if finished else None,
            "test": final + 0.05 if finished else None,
        },
        "metrics": {},
        "throughput": {
            "measured_steps": steps - 5,
            "train_seconds": round(steps * 650 / speed, 3),
            "tokens_seen": 650 * steps,
            "tokens_per_second": round(speed * (1 + 0.02 * own.standard_normal()), 1),
            "wall_seconds": 60.0,
        },
        "memory": {
            "device": "cpu",
            "measure": "resident",
            "baseline_gib": 0.37,
            "peak_gib": {
                "load": 0.46,
                "evaluate": 0.55,
                "train": round(train_gib + 0.002 * own.standard_normal(), 4),
            },
            "train_breakdown_gib": {
                "parameters": 0.0216,
                "gradients": 0.02 * place,
                "optimizer_state": 0.04 * place,
                "activations": 0.165,
                "at_steps": [1, 6],
            },
        },
        "curve": curve(final, steps, points, own, speed),
    }


def curve(
    final: float, steps: int, points: int, rng: np.random.Generator, speed: float
) -> list[dict]:
    """A thinned curve: an exponential from 4 to `final`, evaluations five times."""

    def loss(step: int) -> float:
        return final + (4.0 - final) * math.exp(-4 * step / steps)

    lines: list[dict] = [{"step": 0, "validation_loss": 4.0, "evaluate_seconds": 2.3}]
    for step in sorted({max(1, round(share)) for share in np.linspace(1, steps, points)}):
        lines.append(
            {
                "step": step,
                "loss": loss(step) + 0.1 * float(rng.standard_normal()),
                "lr": [1e-3],
                "gradient_norm": 1.0,
                "tokens": 650 * step,
                "step_seconds": 650 / speed,
                "resident_gib": 0.5 + 0.1 * step / steps,
                "allocated_gib": 0.4 + 0.1 * step / steps,
            }
        )
    lines += [
        {"step": step, "validation_loss": loss(step)}
        for step in range(steps // 5, steps, steps // 5)
    ]
    return sorted(
        [*lines, {"step": steps, "validation_loss": final}], key=lambda line: line["step"]
    )


def write(folder: Path, content: dict, name: str = "result.json") -> Path:
    """Write a record as the loop does; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content, indent=1))
    if name == "result.json":
        measured = ("status", "error", "loss", "curve", "memory", "throughput")
        (folder / "run.json").write_text(
            json.dumps({k: v for k, v in content.items() if k not in measured})
        )
    return folder


def comparison(root: Path, seeds: int = 5) -> Path:
    """Every method at tuned settings, with one failure of each kind."""
    for place, method in enumerate(METHODS):
        for seed in range(seeds):
            status = "finished"
            if place == 2:
                status = "out_of_memory"
            elif place == 5 and seed == 1:
                status = "diverged"
            content = record(
                method,
                seed,
                lr=1e-3 * (1 + place),
                loss=2.9 + 0.03 * (place % 5),
                status=status,
                speed=2500 + 400 * ((place * 7) % 11),
                train_gib=0.6 + 0.05 * ((place * 5) % 11),
            )
            content["tuning"] = {
                "method_cost": {"jobs": 5, "tokens": 650_000, "seconds": 162.5},
                "best": {"lr": 1e-3},
                "space": {"lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]},
                "edge": place == 3,
            }
            write(root / method / f"seed{seed}", content)
    return root


def tuning(root: Path) -> Path:
    """A grid of learning rates, one seed."""
    for place, method in enumerate(METHODS[:6]):
        for index, rate in enumerate((1e-4, 3e-4, 1e-3, 3e-3, 1e-2)):
            status = "diverged" if place == 0 and index == 4 else "finished"
            loss = 2.9 + 0.02 * place + 0.08 * (index - 1 - place % 4) ** 2
            write(
                root / method / f"lr{index}", record(method, 0, lr=rate, loss=loss, status=status)
            )
    return root


def ranks(root: Path, key: str = "some_rank", other: str = "some_interval") -> Path:
    """A grid of two numeric settings, three seeds."""
    for rank in (8, 32, 128):
        for interval in (50, 200):
            for seed in range(3):
                loss = 3.0 - 0.05 * math.log2(rank / 8) + 0.0003 * interval
                write(
                    root / f"{rank}_{interval}_{seed}",
                    record(METHODS[0], seed, loss=loss, **{key: rank, other: interval}),
                )
    return root


def prediction(method: str, **config) -> dict:
    """What a prediction leaves: of run.json's keys those that are known before the model, and memory foreseen."""
    content = record(method, **config)
    keys = (
        "schema_version",
        "identity",
        "method",
        "seed",
        "config",
        "command",
        "sweep",
        "planned_seeds",
    )
    return {
        **{key: content[key] for key in keys},
        "tuning": None,
        "status": "predicted",
        "parameters": {"total": TOTAL, "trainable": TOTAL},
        "peak_gib": {"prepare": 0.1, "load": 0.1, "train": 0.25},
        "needed_gib": 0.75,
        "breakdown_of": "steady step",
        "host_phases": ["prepare"],
        "breakdown_gib": {
            "parameters": 0.0216,
            "gradients": 0.01,
            "optimizer_state": 0.02,
            "activations": 0.16,
        },
    }


def load(*folders: Path, baseline: str | None = None, strict: bool = False) -> list[Comparison]:
    """The comparisons of the records in `folders`."""
    return make_comparisons(read_records(folders)[0], baseline, strict)


def program(*names: str) -> str:
    """Path of an installed program. A missing one fails in CI and skips on a user's machine."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        missing = f"{names[0]} is not installed"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return found
