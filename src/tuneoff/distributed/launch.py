"""How this process was launched: its rank, the number of ranks, and what splits the model over them. Imports no torch.

All of it is read from the environment, as launchers set it.
"""

import os
import re

# What launchers set, with the least value of each; accelerate and torch read them without a check.
NUMBERS = {
    "WORLD_SIZE": 1,
    "RANK": 0,
    "LOCAL_RANK": -1,  # accelerate has it for no launcher
    "LOCAL_WORLD_SIZE": 1,
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": 0,
    "FSDP_VERSION": 1,
}
PORT = "MASTER_PORT"
# Exit code of a rank that ends since another has failed; it has no fault of its own to tell of.
EXIT_LEFT_ALONE = 75


class LauncherError(ValueError):
    """A variable that launchers set holds what none of them would."""


def check_launch() -> None:
    """Refuse variables of a launcher that nothing could be made of; those of a real one pass.

    Raises:
        LauncherError: naming the first of them, and what is allowed.
    """
    numbers = {name: _read_number(name) for name in NUMBERS}
    world_size = numbers["WORLD_SIZE"] or 1
    rank = numbers["RANK"]
    if rank is not None and rank >= world_size > 1:
        raise LauncherError(f"RANK={rank}: must be below WORLD_SIZE={world_size}")
    if world_size == 1:
        return  # Kubernetes gives a pod a MASTER_PORT of its own meaning
    for name in ("RANK", "MASTER_ADDR", PORT):
        if not os.environ.get(name):
            raise LauncherError(
                f"WORLD_SIZE={world_size}: needs {name} too; torchrun and accelerate launch set both, "
                "and num_processes=N starts N processes without them"
            )
    _read_number(PORT)


def _read_number(name: str) -> int | None:
    """A variable that must be a whole number; None where it is not set."""
    text = os.environ.get(name)
    least = NUMBERS.get(name, 1)
    if text is None:
        return None
    # Of a few ASCII digits: `int` takes more than that, and not what else Python calls a digit.
    if not re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII) or int(text) < least:
        shown = text[:40].encode("unicode_escape").decode()
        raise LauncherError(
            f"{name}={shown}: must be a whole number, at least {least}, as launchers set it in the environment; "
            f"unset {name} to run without one"
        )
    return int(text)


def get_world_size() -> int:
    """Processes of this run, as its launcher has said (torchrun, accelerate launch, `jobs/supervisor.py`); else 1."""
    return _read_number("WORLD_SIZE") or 1


def get_rank() -> int:
    """Number of this process among those of its run, from 0. The first writes; the others keep silent."""
    return (_read_number("RANK") or 0) if get_world_size() > 1 else 0


def get_local_world_size() -> int:
    """Processes of this run on this machine, as its launcher has said; else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", get_world_size()))


def get_local_rank() -> int:
    """Number of this process among those of its run on this machine, from 0: the GPU that accelerate gives it."""
    return int(os.environ.get("LOCAL_RANK", 0)) if get_world_size() > 1 else 0


def choose_device_index(visible: int) -> int:
    """The number of this process's GPU among the `visible`, as accelerate has it: a rank may be shown its own alone."""
    return get_local_rank() % max(1, visible)


def get_sharding() -> str:
    """What `accelerate launch` splits the model with: fsdp2, zero2, zero3 and the like; else ddp, or none."""
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', 2)}"
    if _is_set("ACCELERATE_USE_FSDP"):
        return f"fsdp{os.environ.get('FSDP_VERSION', 1)}"
    return "ddp" if get_world_size() > 1 else "none"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
