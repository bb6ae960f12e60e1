"""Where a result comes from: code, versions, hardware and weights, so that a report can tell what is comparable."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tuneoff.config import Experiment, method_packages

SHARED = ("torch", "transformers", "accelerate", "bitsandbytes", "tuneoff")


def collect_provenance(experiment: Experiment, device: torch.device) -> dict:
    """What is known before the model is loaded."""
    return {
        "git": _git(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(device),
        "threads": torch.get_num_threads(),
        "num_processes": experiment.num_processes,
        "precision": {
            "dtype": experiment.dtype.name if experiment.dtype else None,
            "mixed_precision": experiment.mixed_precision.name,
        },
    }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in (*SHARED, *method_packages()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict:
    """Commit and whether the tree has changes; empty outside a checkout."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _hardware(device: torch.device) -> dict:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": name}


def hash_weights(model: Any) -> str:
    """Sixteen hexadecimal digits over each parameter's name, shape and a sample of its values.

    A sample, because hashing every byte of a large model takes longer than loading it.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        places = torch.linspace(
            0, flat.numel() - 1, min(256, flat.numel()), dtype=torch.float64
        ).long()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(flat[places.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
