"""What a run is: typed settings, their ranges, and the one error type that becomes a one-line refusal.

Imports neither torch nor transformers, because `--help`, a refusal and a sweep's parent pass through here.
"""

from importlib import import_module
from typing import Any

from tuneoff.config import resolvers  # noqa: F401 (they register themselves)
from tuneoff.config.binding import (
    bind,
    bind_settings,
    check_config,
    check_settings,
    check_task,
    find_lr_source,
    read_settings,
    refuse_second_method,
)
from tuneoff.config.choices import (
    BASIC,
    PACKAGED,
    Dtype,
    MixedPrecision,
    Optimizer,
    Scheduler,
    Task,
    Tracker,
    WandbMode,
)
from tuneoff.config.data import Columns, SingleSet, Splits
from tuneoff.config.data_sets import Data, Forgetting
from tuneoff.config.declared_keys import (
    explain_unknown_key,
    find_invalid_keys,
    find_method_options,
    method_packages,
    refuse_invalid_keys,
)
from tuneoff.config.experiment import BUDGETS, Experiment, derive_seed
from tuneoff.config.identity import identify_config, identify_run, list_values, resolve_config
from tuneoff.config.model import Model
from tuneoff.config.options import (
    ABSENT,
    ConfigError,
    Role,
    above,
    as_names,
    at_least,
    check_package,
    check_ranges,
    find_columns,
    find_settings,
    format_value,
    names,
    one_of,
    option,
    setting,
    shorten,
    suggest_nearest,
)
from tuneoff.config.paths import (
    data_files,
    data_hash,
    embedded_file,
    format_of,
    is_hub_name,
    is_shipped,
    resolve_folder,
)
from tuneoff.config.registered import schemas
from tuneoff.config.schema_store import store_schema
from tuneoff.config.sharding import is_split

__all__ = [
    "ABSENT",
    "BASIC",
    "BUDGETS",
    "PACKAGED",
    "Columns",
    "ConfigError",
    "Data",
    "Dtype",
    "Experiment",
    "Forgetting",
    "MixedPrecision",
    "Model",
    "Optimizer",
    "Role",
    "Scheduler",
    "SingleSet",
    "Splits",
    "Task",
    "Tracker",
    "WandbMode",
    "above",
    "as_names",
    "at_least",
    "bind",
    "bind_settings",
    "check_config",
    "check_package",
    "check_ranges",
    "check_settings",
    "check_task",
    "data_files",
    "data_hash",
    "derive_seed",
    "embedded_file",
    "explain_unknown_key",
    "find_columns",
    "find_invalid_keys",
    "find_lr_source",
    "find_method_options",
    "find_settings",
    "format_of",
    "format_value",
    "identify_config",
    "identify_run",
    "is_hub_name",
    "is_shipped",
    "is_split",
    "list_values",
    "method_packages",
    "names",
    "one_of",
    "option",
    "read_settings",
    "refuse_invalid_keys",
    "refuse_second_method",
    "resolve_config",
    "resolve_folder",
    "schemas",
    "setting",
    "shorten",
    "store_schema",
    "suggest_nearest",
]


def __getattr__(name: str) -> Any:
    """`Method` and `register` moved to `tuneoff.methods`; methods that are written elsewhere may still ask here."""
    if name in ("Method", "register"):
        return getattr(import_module("tuneoff.methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
