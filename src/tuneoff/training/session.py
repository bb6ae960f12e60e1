"""Session: what a run has before anything is loaded, which is what a record needs however far the run comes."""

from dataclasses import dataclass
from pathlib import Path

from tuneoff.config import ConfigError, Experiment, is_split
from tuneoff.distributed.choose_sharding import make_sharding
from tuneoff.distributed.launch import get_rank
from tuneoff.distributed.ranks import Ranks
from tuneoff.distributed.sharding import Sharding
from tuneoff.distributed.stop import StopRequest, StopSignal
from tuneoff.measure.memory_peaks import PhasePeaks
from tuneoff.methods import Method
from tuneoff.record import CHECKPOINTS, Recorder
from tuneoff.training.device_settings import apply_device_settings, settle_precision
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
        if self.ranks.count == 1:
            return
        if any(self.ranks.gather(self.stop.is_set())):
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
    experiment = settle_precision(experiment)
    apply_device_settings(experiment)
    steps_itself = experiment.sharding.startswith("zero")
    ranks = Ranks(
        # DeepSpeed is told by its own settings: of accelerate's it would make bfloat16 weights.
        mixed_precision="no" if steps_itself else experiment.mixed_precision.name,
        project_dir=recorder.folder,
        log_with=_trackers_of_this_rank(experiment),
    )
    _check_sharding(experiment, ranks)
    # Each rank may have been told another folder: the first one's counts.
    recorder.folder = ranks.gather(recorder.folder.absolute())[0]
    return Session(
        experiment=experiment,
        method=method,
        recorder=recorder,
        ranks=ranks,
        sharding=make_sharding(ranks, experiment.sharding),
        trackers=Trackers(ranks.accelerator),
        peaks=PhasePeaks(ranks.device, ranks.index),
        stop=StopRequest(relayed=ranks.count > 1),
    )


def _check_sharding(experiment: Experiment, ranks: Ranks) -> None:
    """Refuse to train under DDP what was launched to be split: accelerate splits over devices alone."""
    joined_by = str(ranks.accelerator.distributed_type.value)
    if is_split(experiment.sharding) and joined_by not in ("FSDP", "DEEPSPEED"):
        variable = "FSDP" if experiment.sharding == "fsdp2" else "DEEPSPEED"
        allowed = f"needs GPUs; without them accelerate joins the processes as {joined_by}"
        raise ConfigError(f"ACCELERATE_USE_{variable}", "true", allowed)


def _trackers_of_this_rank(experiment: Experiment) -> list[str] | None:
    """The first rank alone reports to trackers."""
    if get_rank():
        return None
    return available_trackers(experiment) or None
