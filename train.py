"""Train one variant, or with -m every variant of a sweep: python train.py method=galore galore_rank=128."""
import os
import sys
from pathlib import Path

os.environ["HYDRA_FULL_ERROR"] = "1"  # `errors.py` makes one line of what Hydra raises
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tuneoff import config, entry, methods  # noqa: F401 (methods register their options)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Bind the config and train."""
    entry.run_job(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    sys.exit(entry.one_line(main))
