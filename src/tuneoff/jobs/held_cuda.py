"""Held CUDA: in the forkserver, which imports this, no library starts the device, so that a forked job can.

CUDA cannot be used in a process that was forked from one that has started it. Some libraries ask the driver while they
are imported, and only to read its version: those that count devices are answered without the driver, bitsandbytes is
put off until a job needs it, and what starts CUDA all the same fails to be imported here; a job then imports it anew.
"""

import importlib.util
import sys
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from tuneoff.distributed.visible import visible_devices

PUT_OFF = "bitsandbytes"
# Looked up in any module by Python itself, which says nothing of a need.
LOOKED_UP = ("__warningregistry__", "__wrapped__", "__file__", "__all__")
_held: dict[str, Any] = {}  # torch's own functions, by name


class CudaHeld(ImportError):
    """A library wants to start CUDA while the forkserver imports it."""


def hold_cuda() -> None:
    """Answer who counts devices from the driver's files, and refuse to start CUDA, until `release_cuda`."""
    if _held or not torch.cuda._is_compiled():
        return
    _held["count"] = torch._C._cuda_getDeviceCount
    _held["start"] = torch.cuda._lazy_init
    torch._C._cuda_getDeviceCount = lambda: len(visible_devices())
    torch.cuda._lazy_init = _refuse_to_start


def _refuse_to_start() -> None:
    raise CudaHeld("CUDA is not started in the forkserver")


def release_cuda() -> None:
    """In a job's process: give torch its own functions back."""
    if _held:
        torch._C._cuda_getDeviceCount = _held.pop("count")
        torch.cuda._lazy_init = _held.pop("start")


class PutOffModule(ModuleType):
    """A module that is imported at the first use of what is in it, not where another only names it."""

    def __getattr__(self, name: str) -> Any:
        if name in LOOKED_UP:
            raise AttributeError(name)
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = list(spec.submodule_search_locations or [])
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(spec.name, None)
            raise
        return getattr(self, name)


def put_off(name: str) -> PutOffModule | None:
    """Stand in for a package until it is used; None where it is not installed, or imported already."""
    if name in sys.modules:
        return None
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    module = importlib.util.module_from_spec(spec)
    del module.__path__  # an import of a part of it is a use
    module.__class__ = PutOffModule
    assert isinstance(module, PutOffModule)
    sys.modules[name] = module
    return module


def answer_peft(stand_in: PutOffModule) -> None:
    """Tell PEFT that bitsandbytes has 4-bit layers, as every version that we allow has.

    PEFT asks that for the first adapter, quantised or not, and keeps the answer; by asking it would import
    bitsandbytes in every job.
    """
    from peft.import_utils import is_bnb_4bit_available

    stand_in.nn = SimpleNamespace(Linear4bit=None)  # type: ignore[attr-defined]
    is_bnb_4bit_available()
    del stand_in.nn


hold_cuda()
_stand_in = put_off(PUT_OFF)
if _stand_in is not None:
    with suppress(ImportError):  # another version of PEFT asks at another place
        answer_peft(_stand_in)
