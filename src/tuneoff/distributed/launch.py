"""How this process was launched: its rank and the number of ranks, from the environment. Imports no torch."""

import os


def get_world_size() -> int:
    """Processes of this run, as its launcher has said (torchrun, accelerate launch, `jobs/supervisor.py`); else 1."""
    return int(os.environ.get("WORLD_SIZE", 1))


def get_rank() -> int:
    """Number of this process among those of its run, from 0. The first writes; the others keep silent."""
    return int(os.environ.get("RANK", 0)) if get_world_size() > 1 else 0
