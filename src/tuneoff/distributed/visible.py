"""Visible devices: the GPUs that CUDA would show this process, as the driver's files and the environment say.

Asks neither torch nor the driver, since a process that is forked from one that has could not use them.
"""

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from shutil import which

DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU, by its place on the bus
DEVICE_FILES = Path("/dev")
LISTER = "nvidia-smi"
LISTER_SECONDS = 20
INDEX = re.compile(r"[+-]?\d+")
UUID_PREFIXES = ("GPU-", "MIG-")


def visible_devices() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES knows: indices, or UUIDs."""
    written = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = count_present_devices()
    if written is None:
        return [str(index) for index in range(present)]
    names = [name.strip() for name in written.split(",")]
    if names[0].startswith(UUID_PREFIXES):
        return _take_uuids(names)
    return _take_indices(names, present)


def _take_uuids(names: list[str]) -> list[str]:
    """As CUDA does: those before the first that is none; none at all where one comes twice."""
    devices: list[str] = []
    for name in names:
        if not name.startswith(UUID_PREFIXES):
            break
        devices.append(name)
    return devices if len(set(devices)) == len(devices) else []


def _take_indices(names: list[str], present: int) -> list[str]:
    """As CUDA does: those before the first that is no number, negative, or of no GPU; none where one comes twice."""
    devices: list[str] = []
    for name in names:
        match = INDEX.match(name)
        index = int(match[0]) if match else -1
        # Where no file of the driver is seen, nothing says how many there are.
        beyond = present > 0 and index >= present
        if index < 0 or beyond:
            break
        devices.append(str(index))
    return devices if len(set(devices)) == len(devices) else []


def count_present_devices() -> int:
    """The GPUs of this machine, or those that its container shows, whatever the environment says."""
    in_driver = len(_driver_folders())
    if in_driver:
        return in_driver
    names = [path.name for path in DEVICE_FILES.glob("nvidia*")]
    numbered = [name for name in names if name.removeprefix("nvidia").isdigit()]
    return len(numbered) or _count_by_lister()


def _driver_folders() -> list[Path]:
    return sorted(DRIVER.glob("*"))


@cache
def _count_by_lister() -> int:
    """What `nvidia-smi -L` lists, where there is neither file: under WSL, and in some containers."""
    program = which(LISTER)
    if program is None:
        return 0
    try:
        answer = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=LISTER_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def identify_device(name: str) -> str:
    """One name for a GPU, whether it is given by its index or by its UUID, so that both mean the same lock.

    An index counts by the place on the bus, as CUDA does under CUDA_DEVICE_ORDER=PCI_BUS_ID, and among equal cards.
    """
    if not name.startswith("GPU-"):
        return name
    for index, folder in enumerate(_driver_folders()):
        if _read_uuid(folder).startswith(name):
            return str(index)
    return name


def _read_uuid(folder: Path) -> str:
    """The UUID in a GPU's file of facts; empty where it says none."""
    try:
        facts = (folder / "information").read_text(errors="replace")
    except OSError:
        return ""
    for line in facts.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "GPU UUID":
            return value.strip()
    return ""
