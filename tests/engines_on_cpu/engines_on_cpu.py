"""Has accelerate take CPUs, which talk by gloo, for devices on which DeepSpeed and FSDP2 can run.

Nothing else is changed: `accelerate launch`, the ready files and train.py run as on GPUs.
"""

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder

os.environ["DS_ACCELERATOR"] = "cpu"


def split_is_asked_for() -> bool:
    asked = (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))
    return "true" in asked


def patch_state(module):
    """A rank is one of several on devices; accelerate would join those on CPUs by DDP."""
    from accelerate.utils import DistributedType

    choose_of_its_own = module.PartialState._prepare_backend

    def choose_backend(self, *values, **settings):
        if not split_is_asked_for() or "LOCAL_RANK" not in os.environ:
            return choose_of_its_own(self, *values, **settings)
        return "gloo", DistributedType.MULTI_GPU

    module.PartialState._prepare_backend = choose_backend


def patch_accelerator(module):
    make = module.Accelerator.__init__

    def init(self, *values, **settings):
        if split_is_asked_for():
            settings["cpu"] = False
            os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        make(self, *values, **settings)

    module.Accelerator.__init__ = init


def patch_deepspeed(module):
    """Its own messages between CPUs spin on shared memory, for which two cores are too few."""
    module.build_shm_op = lambda: None


PATCHES = {
    "accelerate.state": patch_state,
    "accelerate.accelerator": patch_accelerator,
    "deepspeed.comm.torch": patch_deepspeed,
}


def patch_now() -> None:
    """Patch all of them in this process."""
    for name, patch in PATCHES.items():
        needs_deepspeed = name.startswith("deepspeed")
        if not needs_deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            patch(import_module(name))


class PatchingFinder:
    """Finds modules as ever, and has those above patched once they are executed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in PATCHES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            PATCHES[name](module)

        spec.loader.exec_module = execute_and_patch
        return spec


def patch_what_is_imported() -> None:
    """Patch each of them when it is imported; where nobody imports it, nothing happens."""
    sys.meta_path.insert(0, PatchingFinder)
