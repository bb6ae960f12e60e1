"""Generators: torch's global ones, from which new weights and probes are drawn, and left as they were."""

from contextlib import AbstractContextManager

import torch


def fork_generators() -> AbstractContextManager:
    """Leave the generators of the CPU and of this process's device as they were; those of other devices are not its."""
    devices = []
    if torch.cuda.is_available():
        devices.append(torch.cuda.current_device())
    return torch.random.fork_rng(devices=devices)
