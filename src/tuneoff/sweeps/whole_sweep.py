"""What is of a whole sweep: settings of which its jobs cannot have values of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from tuneoff.config import ConfigError, Experiment, Role, find_settings
from tuneoff.sweeps.grids import find_varied_keys

# The sweeper reads them from the config of the sweep, before there are jobs.
READ_ONCE = ("dry_run", "tuning_schedule")


def refuse_own_values(config: Mapping[str, Any], sweep_config: DictConfig) -> None:
    """Refuse a job's own value of what the sweeper reads once, and one run to go on with in all jobs.

    Args:
        config: the job's, as plain values.
        sweep_config: what Hydra composes of a sweep without what is swept.

    Raises:
        ConfigError: naming the key.
    """
    for key in READ_ONCE:
        if config[key] != sweep_config[key]:
            allowed = "must be one value for the whole sweep, outside hydra.sweeper"
            raise ConfigError(key, config[key], allowed)
    if config["resume"] not in ("never", "auto"):
        allowed = "is for a single run; a sweep's own jobs go on where they stopped"
        raise ConfigError("resume", config["resume"], allowed)


def refuse_lost_value(first: Sequence[str], second: Sequence[str]) -> None:
    """Refuse that jobs are one run but for a setting that changes no result: the second would not be run.

    Args:
        first: the overrides of a job.
        second: those of another one with the same folder.

    Raises:
        ConfigError: naming the setting, with both values.
    """
    varied = find_varied_keys([list(first), list(second)])
    for key in find_settings(Experiment, Role.INCIDENTAL):
        if key not in varied:
            continue
        words = [word for word in (*first, *second) if word.startswith(f"{key}=")]
        values = ",".join(word.removeprefix(f"{key}=") for word in words)
        allowed = (
            "must be one value for the whole sweep, or tell its jobs' folders apart, as "
            f"hydra.sweep.subdir='${{method}}/${{identity:}}-${{{key}}}' does"
        )
        raise ConfigError(key, values, allowed)
