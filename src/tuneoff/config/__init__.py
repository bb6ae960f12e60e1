"""What a run is: typed settings, their ranges, and the one error type that becomes a one-line refusal.

Imports neither torch nor transformers, because `--help`, a refusal and a sweep's parent pass through here.
"""
from tuneoff.config.binding import (
    Method,
    bind,
    identity,
    no_such_option,
    odd_keys,
    register,
    resolved,
    schemas,
)
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
from tuneoff.config.settings import (
    BUDGETS,
    Data,
    Dtype,
    Experiment,
    Forgetting,
    MixedPrecision,
    Model,
    Optimizer,
    Scheduler,
    Task,
    Tracker,
    WandbMode,
    derive,
    folder_of,
    shipped,
)

__all__ = ["ABSENT", "BUDGETS", "ConfigError", "Data", "Dtype", "Experiment", "Forgetting", "Method", "MixedPrecision",
           "Model", "Optimizer", "Scheduler", "Task", "Tracker", "WandbMode", "above", "as_names", "at_least", "bind",
           "check_ranges", "derive", "folder_of", "identity", "names", "nearest", "no_such_option", "odd_keys",
           "one_of", "option", "register", "resolved", "schemas", "shipped", "shown"]
