"""Work: what a job does, training or predicting, behind one interface. Imports no torch until it begins."""

import gc
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from tuneoff.config import Experiment, Task, find_lr_source, identify_run, resolve_config
from tuneoff.distributed.launch import get_rank
from tuneoff.jobs.bars import show_bars
from tuneoff.jobs.failures import JobFailed
from tuneoff.record import (
    PREDICTION,
    RESULT,
    RESULTS,
    conclude_dead_run,
    read_json,
    read_section,
    read_status,
    write_prediction,
)
from tuneoff.record.ranges import format_hours
from tuneoff.record.secrets import mask_secrets

COMMAND = list(sys.argv)  # as the user wrote it, for the record
NOT_STARTED = "not started"


def describe_start(cfg: DictConfig, method: Any, sweep: str | None) -> dict:
    """What a record says of how its run was started.

    Args:
        cfg: the settings as they were composed.
        method: the method that they bind to, which knows the options in effect.
        sweep: the name of the sweep that the run is a job of; None for a single run.
    """
    return {
        "identity": identify_run(cfg),
        "config": {**resolve_config(cfg), **method.settled_options()},
        "command": ["python", *COMMAND],
        "sweep": sweep,
        "method": cfg.method,
        "family": cfg.family or method.own_family,
        "seed": cfg.seed,
        "lr_source": find_lr_source(cfg),
    }


@dataclass(frozen=True)
class Work(ABC):
    """One job: its settings, its folder, and what its record says of how it was started.

    An instance is pickled into the process that runs it. The class methods read a folder, and need no settings.
    """

    experiment: Experiment
    method: Any
    folder: Path
    start: dict

    result_file: ClassVar[str]  # a new one in the folder tells that the work is done
    uses_devices: ClassVar[bool] = True  # computes on a GPU, where there is one
    records_refusals: ClassVar[bool] = (
        True  # else whoever started it raises the error, and no record is touched
    )

    @property
    @abstractmethod
    def ranks(self) -> int:
        """Processes that do the work together."""

    @abstractmethod
    def run(self) -> dict:
        """Do the work in this process; returns the result, with its `status`.

        Raises:
            ConfigError: a setting that only the loaded model or data show to be wrong.
        """

    @abstractmethod
    def record_failure(self, status: str, error: dict, wall_seconds: float) -> None:
        """Leave what can be left of work whose process is dead, or stopped, without a result.

        Args:
            error: type, message and traceback, as `describe_error` gives them.
        """

    @classmethod
    @abstractmethod
    def is_done(cls, folder: Path, experiment: Experiment) -> bool:
        """Whether `folder` holds a result that a sweep does not make again."""

    @classmethod
    @abstractmethod
    def read_status(cls, folder: Path) -> str:
        """What came of the work in `folder`: a run's status, or `not started`."""

    @classmethod
    @abstractmethod
    def read_loss(cls, folder: Path) -> float | None:
        """The last validation loss, where there is one."""

    @classmethod
    def describe_losses(cls, folder: Path) -> str:
        """`validation loss 2.1034  test loss 2.1512` of the result in `folder`, of those that were measured."""
        losses = read_section(folder / cls.result_file, "loss")
        parts = []
        for split, stage in (("validation", "final"), ("test", "test")):
            value = losses.get(stage)
            if isinstance(value, int | float):
                parts.append(f"{split} loss {value:.4f}")
        return "  ".join(parts)

    @classmethod
    @abstractmethod
    def describe_result(cls, folder: Path) -> str:
        """The result in `folder` as part of a line of the sweep's table; empty where there is none."""

    @classmethod
    def read_error(cls, folder: Path) -> str:
        """What went wrong, by the result in `folder`: the error's type and message."""
        result = read_json(folder / cls.result_file) or {}
        error = result.get("error")
        if not isinstance(error, dict):
            return f"{cls.result_file} cannot be read, or does not say why"
        return f"{error.get('type')}: {error.get('message')}"


class TrainWork(Work):
    """Train a variant, and leave a record of that however it ends."""

    result_file = RESULT

    @property
    def ranks(self) -> int:
        """As many as the settings ask for."""
        return self.experiment.num_processes

    def run(self) -> dict:
        """Train; where a limit of memory is set, predict first, and do not start what would not fit."""
        # A tracker keeps the command line, too.
        sys.argv = mask_secrets(sys.argv)
        with show_bars(self.experiment.progress and get_rank() == 0):
            return self._train_what_fits()

    def _train_what_fits(self) -> dict:
        """Train, or conclude what a prediction shows to be too large; returns the result."""
        limit = self.experiment.skip_if_over_gib
        start = self.start
        if limit is not None:
            prediction = self._predict_memory()
            start = {**start, "prediction": prediction}
            if prediction["needed_gib"] > limit:
                return self._conclude_unstarted(start, prediction["needed_gib"], limit)
        from tuneoff.training.run import train

        # A method's package may collect garbage as it trains: it need not look through all that was imported.
        gc.freeze()
        return train(self.experiment, self.method, self.folder, start)

    def _predict_memory(self) -> dict:
        """What a record keeps of a prediction."""
        from tuneoff.predict import predict

        prediction = predict(self.experiment, self.method)
        kept = ("needed_gib", "peak_gib", "breakdown_gib", "largest_batch")
        # The largest batch is there where `gib` asks for it.
        return {key: prediction[key] for key in kept if key in prediction}

    def _conclude_unstarted(self, start: dict, needed_gib: float, limit: float) -> dict:
        """The result of a run that would not fit."""
        status = "predicted_out_of_memory"
        reason = f"needs {needed_gib:.2f} GiB, and skip_if_over_gib={limit:g}"
        error = {"type": "PredictedOutOfMemory", "message": reason, "traceback": ""}
        if get_rank():
            return {"status": status, "error": error}
        return conclude_dead_run(self.folder, start, status, error, 0.0)

    def record_failure(self, status: str, error: dict, wall_seconds: float) -> None:
        """Write the result of a dead run, from what it left; one that never began leaves an earlier result as it is.

        Raises:
            JobFailed: with what happened, where there is such a result, unless the user stopped the run.
        """
        if read_status(self.folder) in RESULTS:
            if status == "interrupted":
                return
            raise JobFailed(
                f"{error['type']}: {error['message']}; {self.folder} keeps its earlier result"
            )
        conclude_dead_run(self.folder, self.start, status, error, wall_seconds)

    @classmethod
    def is_done(cls, folder: Path, experiment: Experiment) -> bool:
        """Whether a run came to an end that trying again would not change."""
        return not experiment.rerun and read_status(folder) in RESULTS

    @classmethod
    def read_status(cls, folder: Path) -> str:
        """As the record says."""
        return read_status(folder) or NOT_STARTED

    @classmethod
    def read_loss(cls, folder: Path) -> float | None:
        """The final one, as the result has it."""
        loss = read_section(folder / RESULT, "loss").get("final")
        return loss if isinstance(loss, int | float) else None

    @classmethod
    def describe_result(cls, folder: Path) -> str:
        """Its losses, and what the record warns of in what was saved; warnings of data are the same in every row."""
        losses = cls.describe_losses(folder)
        parts = [losses] if losses else []
        warnings = read_section(folder / RESULT, "facts").get("warnings")
        for warning in warnings if isinstance(warnings, list) else ():
            if "merged" in str(warning):
                parts.append(f"warning: {warning}")
        return "  ".join(parts)


class PredictWork(Work):
    """Predict the memory that training would take. Takes seconds, so that it is always made anew."""

    result_file = PREDICTION
    uses_devices = False

    @property
    def ranks(self) -> int:
        """One, since what is predicted is one rank's memory."""
        return 1

    def run(self) -> dict:
        """Predict, and write prediction.json."""
        from tuneoff.predict import predict

        with show_bars(self.experiment.progress):
            prediction = predict(self.experiment, self.method)
        return write_prediction(self.folder, self.start, prediction)

    def record_failure(self, status: str, error: dict, wall_seconds: float) -> None:
        """Leave nothing, since no reader looks for a failed prediction.

        Raises:
            JobFailed: with what happened, unless the user stopped it.
        """
        if status != "interrupted":
            raise JobFailed(f"{error['type']}: {error['message']}")

    @classmethod
    def is_done(cls, folder: Path, experiment: Experiment) -> bool:
        """Never."""
        return False

    @classmethod
    def read_status(cls, folder: Path) -> str:
        """Finished where a prediction is there."""
        return "finished" if (folder / PREDICTION).exists() else NOT_STARTED

    @classmethod
    def read_loss(cls, folder: Path) -> float | None:
        """None: nothing was trained."""
        return None

    @classmethod
    def describe_result(cls, folder: Path) -> str:
        """`fits 24 GiB, largest batch 3  needs 20.1 GiB = peak 19.6 (parameters 14.9, …) + CUDA's own 0.5`."""
        prediction = read_json(folder / PREDICTION)
        return "" if prediction is None else format_prediction_line(prediction)


WORKS: dict[Task, type[Work]] = {
    Task.train: TrainWork,
    Task.predict: PredictWork,
}


def format_prediction_line(prediction: dict) -> str:
    """A prediction's answer and what it is made of, in one line."""
    parts = [
        f"{part.replace('_', ' ')} {gib:.2f}" for part, gib in prediction["breakdown_gib"].items()
    ]
    needed = prediction["needed_gib"]
    cuda = prediction["cuda"]
    cuda_gib = cuda["rounding_gib"] + cuda["context_gib"]
    memory = f"peak {needed - cuda_gib:.2f} ({', '.join(parts)}) + CUDA's own {cuda_gib:.2f}"
    line = f"needs {needed:6.2f} GiB = {memory}"
    if "time" in prediction:
        line = f"{format_hours(prediction['time'])}, {line}"
    batch = prediction.get("largest_batch")
    if batch is None:
        return line
    fits = "fits" if needed <= batch["gib"] else "too large for"
    return f"{fits} {batch['gib']:g} GiB, largest batch {batch['batch_size']:4}  {line}"
