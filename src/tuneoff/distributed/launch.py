"""How this process was launched: its rank, the number of ranks, and what splits the model over them. Imports no torch.

All of it is read from the environment, as launchers set it.
"""

import os

# Exit code of a rank that ends since another has failed; it has no fault of its own to tell of.
EXIT_LEFT_ALONE = 75


def get_world_size() -> int:
    """Processes of this run, as its launcher has said (torchrun, accelerate launch, `jobs/supervisor.py`); else 1."""
    return int(os.environ.get("WORLD_SIZE", 1))


def get_rank() -> int:
    """Number of this process among those of its run, from 0. The first writes; the others keep silent."""
    return int(os.environ.get("RANK", 0)) if get_world_size() > 1 else 0


def get_local_world_size() -> int:
    """Processes of this run on this machine, as its launcher has said; else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", get_world_size()))


def get_local_rank() -> int:
    """Number of this process among those of its run on this machine, from 0: the GPU that accelerate gives it."""
    return int(os.environ.get("LOCAL_RANK", 0)) if get_world_size() > 1 else 0


def get_sharding() -> str:
    """What `accelerate launch` splits the model with: fsdp2, zero2, zero3 and the like; else ddp, or none."""
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', 2)}"
    if _is_set("ACCELERATE_USE_FSDP"):
        return f"fsdp{os.environ.get('FSDP_VERSION', 1)}"
    return "ddp" if get_world_size() > 1 else "none"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
