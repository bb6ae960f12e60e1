"""Trackers: W&B and TensorBoard through accelerate, and no error of theirs ever stops or spoils a run."""

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tuneoff.config import Experiment, Tracker
from tuneoff.record import flatten
from tuneoff.record.secrets import mask_secrets

log = logging.getLogger(__name__)
LONGEST_REASON = 200  # characters of what a tracker raised


def available_trackers(experiment: Experiment) -> list[str]:
    """The names to give accelerate: none where the package is not installed, with one warning."""
    name = experiment.tracker.name
    if experiment.tracker is Tracker.none:
        return []
    if importlib.util.find_spec(name) is None:
        log.warning("tracker=%s: the package is not installed; the run goes on without it", name)
        return []
    return [name]


class Trackers:
    """The same values to every tracker of an `Accelerator`; one that fails is dropped with one warning."""

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator

    def start(self, experiment: Experiment, started: dict, folder: Path) -> None:
        """Begin, or go on with the run of `started["tracker_id"]`: group is the sweep, job type the method."""
        os.environ.setdefault("WANDB_SILENT", "true")
        settings = {
            "id": started["tracker_id"],
            "resume": "allow",
            "name": folder.name,
            "dir": str(folder),
            "group": started.get("sweep") or "single",
            "job_type": experiment.method,
            "mode": experiment.wandb_mode.name,
            "tags": mask_secrets(experiment.tags or []),
        }
        settings_by_tracker = {}
        if experiment.tracker is Tracker.wandb:
            settings_by_tracker["wandb"] = settings
        self._guard(
            partial(
                self.accelerator.init_trackers,
                experiment.wandb_project,
                flatten(started["config"]),
                settings_by_tracker,
            )
        )

    def log(self, values: dict, step: int) -> None:
        """Send numbers (nested as they like) of a step."""
        flat = flatten(values)
        numbers = {key: value for key, value in flat.items() if isinstance(value, int | float)}
        for tracker in list(self.accelerator.trackers):
            self._guard(partial(tracker.log, numbers, step=step), tracker)

    def finish(self, result: dict) -> None:
        """Send the final record as summary, and end: without it the next run would go on in this one."""
        told_already = ("curve", "config")
        summary = {key: value for key, value in result.items() if key not in told_already}
        for tracker in list(self.accelerator.trackers):
            if tracker.name == "wandb":
                self._guard(partial(_summarise, tracker, flatten(summary)), tracker)
        for tracker in list(self.accelerator.trackers):
            self._guard(tracker.finish, tracker)

    def _guard(self, action: Callable[[], object], tracker: Any = None) -> None:
        """Do `action`; if it fails, go on without `tracker`, or where that is None without any."""
        try:
            action()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            name = tracker.name if tracker else "tracker"
            reason = str(error).split("\n")[0]
            log.warning(
                "%s stopped working (%s); the run goes on without it", name, reason[:LONGEST_REASON]
            )
            left = []
            if tracker is not None:
                left = [other for other in self.accelerator.trackers if other is not tracker]
            self.accelerator.trackers = left


def _summarise(tracker: Any, summary: dict) -> None:
    tracker.run.summary.update(summary)
