"""Experiment trackers through accelerate, behind one rule: no tracker error ever stops or spoils a run."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from tuneoff.config import Experiment, Tracker
from tuneoff.record import flatten
from tuneoff.record.secrets import mask_secrets

log = logging.getLogger(__name__)


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
        config = started["config"]
        self._guard(
            lambda: self.accelerator.init_trackers(
                experiment.wandb_project,
                flatten(config),
                {"wandb": settings} if experiment.tracker is Tracker.wandb else {},
            )
        )

    def log(self, values: dict, step: int) -> None:
        """Send numbers (nested as they like) of a step."""
        flat = {
            key: value for key, value in flatten(values).items() if isinstance(value, int | float)
        }
        for tracker in list(self.accelerator.trackers):
            self._guard(lambda tracker=tracker: tracker.log(flat, step=step), tracker)

    def finish(self, result: dict) -> None:
        """Send the final record as summary, and end: without it the next run would go on in this one."""
        flat = flatten(
            {key: value for key, value in result.items() if key not in ("curve", "config")}
        )
        for tracker in list(self.accelerator.trackers):
            if tracker.name == "wandb":
                self._guard(lambda tracker=tracker: tracker.run.summary.update(flat), tracker)
        for tracker in list(self.accelerator.trackers):
            self._guard(tracker.finish, tracker)

    def _guard(self, action: Any, tracker: Any = None) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            name = tracker.name if tracker else "tracker"
            log.warning(
                "%s stopped working (%s); the run goes on without it",
                name,
                str(error).split("\n")[0][:200],
            )
            left = [
                other for other in self.accelerator.trackers if tracker and other is not tracker
            ]
            self.accelerator.trackers = left
