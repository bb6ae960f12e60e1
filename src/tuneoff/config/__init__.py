"""What a run is: typed settings, their ranges, and the one error type that becomes a one-line refusal.

Imports neither torch nor transformers, because `--help`, a refusal and a sweep's parent pass through here.
"""

from importlib import import_module
from typing import Any

from tuneoff.config.binding import (
    bind,
    checked,
    identity,
    no_such_option,
    odd_keys,
    own_options,
    packages,
    resolved,
    schemas,
)
from tuneoff.config.data import Columns, Data, Splits
from tuneoff.config.model import Model
from tuneoff.config.options import (
    ABSENT,
    ConfigError,
    above,
    as_names,
    at_least,
    check_ranges,
    names,
    nearest,
    one_of,
    option,
    shown,
)
from tuneoff.config.paths import data_files, data_hash, embedded_file, folder_of, format_of, shipped
from tuneoff.config.settings import (
    BUDGETS,
    Dtype,
    Experiment,
    Forgetting,
    MixedPrecision,
    Optimizer,
    Scheduler,
    Task,
    Tracker,
    WandbMode,
    derive,
)

__all__ = [
    "ABSENT",
    "BUDGETS",
    "Columns",
    "ConfigError",
    "Data",
    "Dtype",
    "Experiment",
    "Forgetting",
    "MixedPrecision",
    "Model",
    "Optimizer",
    "Scheduler",
    "Splits",
    "Task",
    "Tracker",
    "WandbMode",
    "above",
    "as_names",
    "at_least",
    "bind",
    "check_ranges",
    "checked",
    "data_files",
    "data_hash",
    "derive",
    "embedded_file",
    "folder_of",
    "format_of",
    "identity",
    "names",
    "nearest",
    "no_such_option",
    "odd_keys",
    "one_of",
    "option",
    "own_options",
    "packages",
    "resolved",
    "schemas",
    "shipped",
    "shown",
]


def __getattr__(name: str) -> Any:
    """`Method` and `register` moved to `tuneoff.methods`; methods that are written elsewhere may still ask here."""
    if name in ("Method", "register"):
        return getattr(import_module("tuneoff.methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
