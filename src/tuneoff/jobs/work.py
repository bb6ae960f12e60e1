"""What a job does: train or predict what its settings ask for, in this process. Imports no torch until it begins."""

import gc
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tuneoff.config import Experiment, Task, identify_run, resolve_config
from tuneoff.distributed.launch import get_rank
from tuneoff.record import conclude_dead_run, write_prediction

COMMAND = list(sys.argv)  # as the user wrote it, for the record


class RunFailed(RuntimeError):
    """A run that ended without a usable result; its record says why."""


def describe_start(cfg: DictConfig, method: Any, sweep: str | None) -> dict:
    """What a run's record says of how it was started; its config has the options in effect."""
    return {
        "identity": identify_run(cfg),
        "config": {**resolve_config(cfg), **method.settled_options()},
        "command": ["python", *COMMAND],
        "sweep": sweep,
    }


def perform(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """Do what the settings ask for, in this process; returns the result.

    Raises:
        ConfigError: a setting that only the loaded model or data show to be wrong.
    """
    limit = experiment.skip_if_over_gib
    if experiment.task is Task.predict or limit is not None:
        from tuneoff.predict import predict

        start = {**start, "method": experiment.method, "seed": experiment.seed}
        foreseen = predict(experiment, method)
        if experiment.task is Task.predict:
            return write_prediction(folder, start, foreseen)
        start["prediction"] = {
            key: foreseen[key] for key in ("needed_gib", "peak_gib", "breakdown_gib")
        }
        if limit is not None and foreseen["needed_gib"] > limit:
            why = f"needs {foreseen['needed_gib']:.2f} GiB, and skip_if_over_gib={limit:g}"
            error = {"type": "PredictedOutOfMemory", "message": why, "traceback": ""}
            if get_rank():
                return {"status": "predicted_out_of_memory", "error": error}
            return conclude_dead_run(folder, start, "predicted_out_of_memory", error, 0.0)
    from tuneoff.training.run import train

    # A method's package may collect garbage as it trains: it need not look through all that was imported.
    gc.freeze()
    return train(experiment, method, folder, start)
