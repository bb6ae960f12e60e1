"""What a run is: typed settings, their ranges, and the one error type that becomes a one-line refusal.

Imports neither torch nor transformers, because `--help`, a refusal and a sweep's parent pass through here.
"""
from tuneoff.config.binding import (
    Method,
    bind,
    identity,
    no_such_option,
    odd_keys,
    packages,
    register,
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
from tuneoff.config.places import data_files, data_hash, folder_of, format_of, shipped
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

__all__ = ["ABSENT", "BUDGETS", "Columns", "ConfigError", "Data", "Dtype", "Experiment", "Forgetting", "Method",
           "MixedPrecision", "Model", "Optimizer", "Scheduler", "Splits", "Task", "Tracker", "WandbMode", "above",
           "as_names", "at_least", "bind", "check_ranges", "data_files", "data_hash", "derive", "folder_of",
           "format_of", "identity", "names", "nearest", "no_such_option", "odd_keys", "one_of", "option",
           "packages", "register", "resolved", "schemas", "shipped", "shown"]
