"""Benchmarks: tasks of lm-evaluation-harness, asked of the model in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneoff.config.options import ConfigError, Role, check_package, names, option, setting
from tuneoff.config.sharding import is_split

ROLE = Role.JUDGING | Role.NOT_PREDICTED


def is_positive(value: int) -> bool:
    """Whether there is at least one."""
    return value >= 1


@dataclass
class BenchmarkSettings:
    """Benchmarks: tasks of lm-evaluation-harness (pip install 'tuneoff[lm-eval]'), asked when training has ended."""

    benchmarks: Any = names(role=ROLE)
    """Names of its tasks, such as [gsm8k,ifeval], or of your own in benchmark_folder; null asks none."""
    benchmarks_before: bool = setting(False, ROLE)
    """Also ask the base model, before the first step."""
    benchmark_folder: str | None = setting(None, ROLE)
    """A folder with tasks of your own, as YAML files of the same form."""
    benchmark_limit: int | None = option(None, "must be at least 1", is_positive, ROLE)
    """Examples of each task; null asks all."""
    benchmark_fewshot: int | None = option(None, "must be at least 0", lambda n: n >= 0, ROLE)
    """Examples with their answers before each question; null leaves it to the task."""
    benchmark_batch_size: int | None = option(None, "must be at least 1", is_positive, ROLE)
    """Requests of a batch; null takes eval_batch_size, or batch_size."""


def check_benchmarks(experiment: Any) -> None:
    """Refuse tasks without the package that has them, and what belongs to tasks where there are none.

    Raises:
        ConfigError: naming the setting.
    """
    if not experiment.benchmarks:
        for key in ("before", "limit", "fewshot", "batch_size", "folder"):
            name = "benchmarks_before" if key == "before" else f"benchmark_{key}"
            value = getattr(experiment, name)
            if value not in (None, False):
                raise ConfigError(name, value, "needs benchmarks=[…]")
        return
    key = "benchmarks"
    value = experiment.benchmarks
    check_package(key, value, "lm_eval", "lm-eval")
    if is_split(experiment.sharding):
        allowed = f"must be null under {experiment.sharding}, where no process has the model that would answer"
        raise ConfigError(key, value, allowed)
    folder = experiment.benchmark_folder
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ConfigError("benchmark_folder", folder, "must be a folder")
