"""A torch that was built with CUDA, as far as libraries can see while they are imported; who asks the driver is noted.

Run as a script it imports all that the forkserver imports, and prints as JSON who asked, what a forked job finds, and
which part of bitsandbytes is there. Nothing here needs a device, and nothing shows what one would do.
"""

import importlib
import json
import os
import sys
import traceback
from types import SimpleNamespace

import torch

H100 = SimpleNamespace(
    major=9, minor=0, name="NVIDIA H100", total_memory=80 << 30, multi_processor_count=132
)
asked: list[list[str]] = []  # what was asked of the driver, and from where


def note(question: str) -> None:
    """Keep a question with the last calls that led to it."""
    calls = []
    for frame in traceback.extract_stack()[:-2]:
        if "importlib" not in frame.filename:
            calls.append(f"{frame.filename.partition('site-packages/')[2]}:{frame.lineno}")
    asked.append([question, *calls[-4:]])


def count_devices() -> int:
    """CUDA's own count, for which the driver is started."""
    note("cudaGetDeviceCount")
    return 1


def start_cuda() -> None:
    """What every other question begins with."""
    note("cuInit")


def pretend_cuda() -> None:
    """Make this process's torch a CUDA build, on a machine with one device and no NVML."""
    torch._C._cuda_getDeviceCount = count_devices
    torch._C._cuda_getCurrentRawStream = lambda index: 0
    torch.cuda._lazy_init = start_cuda
    torch.cuda._device_count_nvml = lambda: -1
    torch.cuda._initialized = False
    torch.cuda.get_device_properties = ask_properties
    torch.cuda.get_device_capability = ask_capability


def ask_properties(device: object = None) -> SimpleNamespace:
    """As torch's, which starts CUDA first."""
    torch.cuda._lazy_init()
    return H100


def ask_capability(device: object = None) -> tuple[int, int]:
    """As torch's, which starts CUDA first."""
    torch.cuda._lazy_init()
    return H100.major, H100.minor


def look_in_a_fork(function) -> object:
    """What a function returns in a forked process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        return json.loads(answers.read())


def hold_and_note() -> None:
    """Note what the forkserver refuses, too."""
    refuse = torch.cuda._lazy_init

    def note_and_refuse() -> None:
        note("wanted CUDA")
        refuse()

    torch.cuda._lazy_init = note_and_refuse


def use_in_a_job() -> dict:
    """Release CUDA as a job does, train an adapter, and then use bitsandbytes."""
    from tuneoff.jobs.worker import release_held_cuda

    release_held_cuda()
    add_adapter()
    loaded = "bitsandbytes.functional" in sys.modules
    before = len(asked)
    import bitsandbytes.functional

    return {
        "owns": torch.cuda._lazy_init is start_cuda,
        "available": torch.cuda.is_available(),
        "loaded by an adapter": loaded,
        "bitsandbytes": hasattr(bitsandbytes.functional, "quantize_4bit"),
        "asked": [question for question, *_ in asked[before:]],
    }


def add_adapter() -> None:
    """Put LoRA on one small linear layer."""
    from peft import LoraConfig, get_peft_model

    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    get_peft_model(model, LoraConfig(r=2, target_modules=["0"]))


def main(extra: list[str]) -> None:
    """Import all that the forkserver imports, and modules beside it."""
    pretend_cuda()
    from tuneoff.jobs.processes import PRELOAD

    refused = []
    by_module = {}
    modules = [name for name in PRELOAD if not name.endswith(("parent", "keep_forkserver"))]
    for name in [*modules, *extra]:
        before = len(asked)
        try:
            importlib.import_module(name)
        except ImportError as error:
            refused.append([name, type(error).__name__])
        if len(asked) > before:
            by_module[name] = asked[before:]
        if name.endswith("held_cuda"):
            hold_and_note()
    answer = {
        "asked": by_module,
        "refused": refused,
        "available": torch.cuda.is_available(),
        "loaded": "bitsandbytes.functional" in sys.modules,
        "job": look_in_a_fork(use_in_a_job),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
