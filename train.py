"""Train one variant, or with -m every variant of a sweep: python train.py method=galore galore_rank=128."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["HYDRA_FULL_ERROR"] = "1"  # `cli/error_lines.py` makes one line of what Hydra raises
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tuneoff import methods  # noqa: F401 (methods register their options)
from tuneoff.cli import single_run
from tuneoff.cli.main import one_line
from tuneoff.sweeps import job


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> job.Outcome | None:
    """Run in this process, or as one job of a sweep in a process of its own."""
    hydra_config: Any = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        return job.run_job(cfg, hydra_config)
    single_run.run_single(cfg, Path(hydra_config.runtime.output_dir))
    return None


if __name__ == "__main__":
    sys.exit(one_line(main))
