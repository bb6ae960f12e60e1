"""One run, from the first line of its record to the last, whatever happens in between."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from tuneoff.config import ConfigError, Experiment
from tuneoff.distributed.launch import get_rank
from tuneoff.methods import Method
from tuneoff.record import RESULTS, AlreadyDone, Recorder, SilentRecorder
from tuneoff.record import read_status as status_of
from tuneoff.training.trainer import Diverged, Trainer


def train(experiment: Experiment, method: Method, folder: Path, start: dict) -> dict:
    """Train one variant in this process and write its record.

    Args:
        start: what run.json holds beside provenance: identity, config (resolved), command, sweep.
        folder: as the first of several processes has it; the others need not know it.

    Returns:
        The result, as result.json holds it; its `status` says how the run ended.

    Raises:
        ConfigError: what only the loaded model or data can show to be wrong.
        Busy: another process trains in `folder`.
        AlreadyDone: with resume=auto, another process has finished this run in the meantime.
    """
    first = get_rank() == 0
    with closing(Recorder(folder) if first else SilentRecorder(folder)) as recorder:
        if experiment.resume == "auto" and status_of(folder) in RESULTS:
            raise AlreadyDone(f"{folder}: another process has finished this run")
        trainer = Trainer(experiment, method, recorder)
        status: str = "finished"
        error: dict | None = None
        with call_on_sigterm(trainer.stop):
            try:
                trainer.load(start)
                trainer.fit()
                trainer.conclude()
            except ConfigError:
                trainer.trackers.finish({})
                raise
            except BaseException as caught:  # whatever it was, the record says so
                status, error = trainer.ranks.first_failure(classify_error(caught), caught)
            finally:
                trainer.bar.close()
        result = recorder.finish(status, trainer.measured(), error)
        trainer.trackers.finish(result)
        return result


@contextmanager
def call_on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` when SIGTERM comes (what SLURM sends before it kills); elsewhere than in a main thread, never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def classify_error(error: BaseException) -> str:
    """The status that an exception stands for."""
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(
        error
    ):
        return "out_of_memory"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
