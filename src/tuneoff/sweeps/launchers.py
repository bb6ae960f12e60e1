"""Launchers: whether one runs its jobs on this machine, and how many at the same time."""

from omegaconf import DictConfig, OmegaConf

from tuneoff.jobs.devices import available_cores

LOCAL = ("BasicLauncher", "JoblibLauncher")


def is_local(hydra: DictConfig) -> bool:
    """Whether the launcher runs its jobs here; of another one's jobs nothing is known of the machine they come to."""
    return str(OmegaConf.select(hydra, "launcher._target_")).endswith(LOCAL)


def count_jobs_at_once(hydra: DictConfig) -> int:
    """Jobs that the launcher runs at the same time; below 0, joblib counts from the number of cores: -1 is all."""
    jobs = int(OmegaConf.select(hydra, "launcher.n_jobs") or 1)
    return jobs if jobs > 0 else max(1, available_cores() + 1 + jobs)
