"""Provenance: code, versions, hardware and weights behind a result, so that a report can tell what is comparable."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tuneoff.config import ConfigError, Experiment, method_packages
from tuneoff.distributed.visible import visible_devices

SHARED_PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "tuneoff")
CPU_INFO = Path("/proc/cpuinfo")
SAMPLES = 256  # values of each weight that its hash sees
GIT_SECONDS = 10


def collect_provenance(experiment: Experiment, device: torch.device) -> dict:
    """What is known before the model is loaded."""
    return {
        "git": _describe_checkout(),
        "versions": {"python": platform.python_version(), **_installed_versions()},
        "hardware": _describe_hardware(device),
        "threads": torch.get_num_threads(),
        "num_processes": experiment.num_processes,
        "sharding": experiment.sharding,
        "precision": {
            "dtype": experiment.dtype.name if experiment.dtype else None,
            "trainable_dtype": _name_trainable_dtype(experiment),
            "mixed_precision": experiment.mixed_precision.name,
            "tf32": experiment.tf32,
        },
        "deterministic": experiment.deterministic,
        **_describe_devices(experiment, device),
    }


def _name_trainable_dtype(experiment: Experiment) -> str | None:
    """The type of what trains, where it was given."""
    dtype = experiment.trainable_dtype
    return dtype.name if dtype else None


@cache
def _installed_versions() -> dict[str, str]:
    versions = {}
    for name in (*SHARED_PACKAGES, *method_packages()):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _describe_checkout() -> dict:
    """Commit and whether the tree has changes; empty outside a checkout."""
    try:
        return {
            "commit": _ask_git("rev-parse", "HEAD"),
            "dirty": bool(_ask_git("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _ask_git(*words: str) -> str:
    here = Path(__file__).parent
    answer = subprocess.run(
        # Without a lock: a run that is killed here must not leave the user's checkout locked.
        ["git", "--no-optional-locks", "-C", str(here), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=GIT_SECONDS,
    )
    return answer.stdout.strip()


def _describe_hardware(device: torch.device) -> dict:
    gpu = None
    if device.type == "cuda":
        gpu = torch.cuda.get_device_name(device)
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "gpu": gpu}


def _describe_devices(experiment: Experiment, device: torch.device) -> dict:
    """Which devices the run had, and with how many jobs it may have shared them; none of either on a CPU."""
    if device.type != "cuda":
        return {"visible_devices": [], "jobs_per_device": 1}
    return {
        "visible_devices": visible_devices(),
        "jobs_per_device": experiment.jobs_per_device,
    }


def _cpu_name() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hash_weights(model: Any) -> str:
    """Sixteen hexadecimal digits over each parameter's name, shape and a sample of its values.

    A sample, because hashing every byte of a large model takes longer than loading it.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        count = min(SAMPLES, flat.numel())
        last = flat.numel() - 1
        indices = torch.linspace(0, last, count, dtype=torch.float64).long()
        sample = flat[indices.to(flat.device)].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_other_inputs(experiment: Experiment, now: dict, earlier_run: dict | None) -> None:
    """Let no run go on from other weights or rows than it began with, which the same names may stand for by now.

    Args:
        now: the provenance of the run as it would go on.
        earlier_run: what run.json holds; what it does not say passes.

    Raises:
        ConfigError: `model.path` or `data`.
    """
    inputs = (
        ("model.path", experiment.model.path, "weights", _find_weights_hash),
        ("data", experiment.data.name, "rows", _find_fingerprint),
    )
    earlier = (earlier_run or {}).get("provenance")
    for key, value, what, find_hash in inputs:
        before = find_hash(earlier)
        present = find_hash(now)
        if before and present and before != present:
            allowed = (
                f"has other {what} than when this run began ({before} then, {present} now); "
                "resume=never, or in a sweep rerun=true, begins anew"
            )
            raise ConfigError(key, value, allowed)


def _find_weights_hash(provenance: Any) -> Any:
    """The hash of the base weights; None where there is none, or the rank loads none."""
    return provenance.get("base_weights_hash") if isinstance(provenance, dict) else None


def _find_fingerprint(provenance: Any) -> Any:
    """The fingerprint of the rows; None where there is none."""
    data = provenance.get("data") if isinstance(provenance, dict) else None
    return data.get("fingerprint") if isinstance(data, dict) else None
