"""Session: what a run has before anything is loaded, which is what a record needs however far the run comes."""

from dataclasses import dataclass
from pathlib import Path

from tuneoff.config import Experiment
from tuneoff.distributed.launch import get_rank
from tuneoff.distributed.ranks import Ranks
from tuneoff.distributed.sharding import Sharding
from tuneoff.distributed.stop import StopRequest, StopSignal
from tuneoff.measure.memory_peaks import PhasePeaks
from tuneoff.methods import Method
from tuneoff.record import CHECKPOINTS, Recorder
from tuneoff.training.device_settings import apply_device_settings
from tuneoff.training.trackers import Trackers, available_trackers


@dataclass(frozen=True)
class Session:
    """A run's settings, its ranks, and where it writes."""

    experiment: Experiment
    method: Method
    recorder: Recorder
    ranks: Ranks
    sharding: Sharding
    trackers: Trackers
    peaks: PhasePeaks
    stop: StopRequest  # by a signal to this rank

    @property
    def folder(self) -> Path:
        """The run's folder, as the first rank has it."""
        return self.recorder.folder

    def stop_if_asked(self) -> None:
        """Stop where a rank was asked to; all ranks must call, and all stop.

        A single process needs not ask: the signal itself stops it.

        Raises:
            StopSignal: in every rank.
        """
        if self.ranks.count > 1 and any(self.ranks.gather(self.stop.is_set())):
            raise StopSignal(f"stopped by {self.stop.name}")

    @property
    def checkpoint_folder(self) -> Path:
        """Where the run's checkpoints are."""
        return self.folder / CHECKPOINTS


def open_session(experiment: Experiment, method: Method, recorder: Recorder) -> Session:
    """Meet the other ranks, and begin to measure memory.

    Raises:
        ConfigError: a precision that this machine does not have.
        RuntimeError: accelerate did not form the group that was launched.
    """
    apply_device_settings(experiment)
    ranks = Ranks(
        mixed_precision=experiment.mixed_precision.name,
        project_dir=recorder.folder,
        log_with=_trackers_of_this_rank(experiment),
    )
    # Each rank may have been told another folder: the first one's counts.
    recorder.folder = ranks.gather(recorder.folder.absolute())[0]
    return Session(
        experiment=experiment,
        method=method,
        recorder=recorder,
        ranks=ranks,
        sharding=Sharding(ranks),
        trackers=Trackers(ranks.accelerator),
        peaks=PhasePeaks(ranks.device, ranks.index),
        stop=StopRequest(relayed=ranks.count > 1),
    )


def _trackers_of_this_rank(experiment: Experiment) -> list[str] | None:
    """The first rank alone reports to trackers."""
    if get_rank():
        return None
    return available_trackers(experiment) or None
