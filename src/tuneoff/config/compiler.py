"""Compiler: what torch.compile needs of this machine, and what cannot be compiled. Imports no torch."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tuneoff.config.choices import Task
from tuneoff.config.options import ConfigError
from tuneoff.config.sharding import is_split

COMPILER_VARIABLE = "CXX"


def check_compile(experiment: Any) -> None:
    """Refuse to compile layers where the machine cannot, or where it was seen to fail.

    Args:
        experiment: all settings, their own ranges checked.

    Raises:
        ConfigError: what compile=true does not go with, or lacks.
    """
    if not experiment.compile or experiment.task is not Task.train:
        return
    if is_split(experiment.sharding):
        allowed = f"must be false under {experiment.sharding}, whose hooks inside the layers part them into pieces"
        raise ConfigError("compile", True, allowed)
    _check_machine()


def _check_machine() -> None:
    """Refuse where torch's own search for a compiler would fail, minutes later.

    Raises:
        ConfigError: no C++ compiler, or no headers of Python.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get(COMPILER_VARIABLE, usual)
    if shutil.which(compiler) is None:
        allowed = f"needs a C++ compiler, and {compiler} is not here; {COMPILER_VARIABLE} may name another"
        raise ConfigError("compile", True, allowed)
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.exists():
        allowed = f"needs Python's headers (python3-dev), and {headers} is not there"
        raise ConfigError("compile", True, allowed)
