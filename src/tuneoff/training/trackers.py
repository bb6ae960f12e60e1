"""Trackers: W&B, TensorBoard and Trackio through accelerate, and no error of theirs ever stops or spoils a run."""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from tuneoff.config import Experiment, Tracker, WandbMode
from tuneoff.record import flatten
from tuneoff.record.secrets import mask_secrets

log = logging.getLogger(__name__)
LONGEST_REASON = 200  # characters of what a tracker raised
LONGEST_NAME = 128  # W&B's own limits
LONGEST_TAG = 64
MOST_TABLE_ROWS = 1000
# How often W&B's own process writes to the run's file: a killed run loses what was sent since.
FLUSH_SECONDS = "1"
# Names follow transformers' trainer, where it has one.
TOKENS = "train/num_input_tokens_seen"
SUMMARIES = {
    "train/*": "last",
    "train/loss": "min",
    "train/tokens_per_second": "mean",
    "train/step_seconds": "mean",
    "eval/*": "last",
    "eval/loss": "min",
    "test/*": "last",
    "memory/*": "max",
    "metrics/*": "last",
    "metrics/exact_match": "max",
}


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
        self.tokens_seen = 0  # so that every series can be shown over tokens, too

    def start(self, experiment: Experiment, started: dict, folder: Path) -> None:
        """Begin, or go on with the run of `started["tracker_id"]`: group is the sweep, job type the method."""
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", FLUSH_SECONDS)
        settings = {
            "id": started["tracker_id"],
            "resume": "allow",
            "name": name_run(experiment, started),
            "dir": str(folder),
            "group": started.get("sweep") or "single",
            "job_type": experiment.method,
            "mode": experiment.wandb_mode.name,
            "tags": list_tags(experiment, started),
        }
        if experiment.wandb_entity is not None:
            settings["entity"] = experiment.wandb_entity
        if experiment.tracker is Tracker.wandb and experiment.wandb_mode is WandbMode.online:
            self._go_online_or_stay_offline(experiment, started, settings)
        else:
            self._guard(partial(self._init, experiment, started, settings))

    def _init(self, experiment: Experiment, started: dict, settings: dict) -> None:
        settings_by_tracker = {}
        if experiment.tracker is Tracker.wandb:
            settings_by_tracker["wandb"] = settings
        elif experiment.tracker is Tracker.trackio:
            settings_by_tracker["trackio"] = describe_trackio_run(settings)
        self.accelerator.init_trackers(
            experiment.wandb_project, flatten(started["config"]), settings_by_tracker
        )
        for tracker in self.accelerator.trackers:
            if tracker.name == "wandb":
                define_axes(tracker.run)

    def _go_online_or_stay_offline(
        self, experiment: Experiment, started: dict, settings: dict
    ) -> None:
        """Begin an online run of W&B; without a login or a server the run is kept, to be uploaded later."""
        reason = "nobody is logged in; see wandb login"
        if has_wandb_login():
            try:
                self._init(experiment, started, settings)
                return
            except Exception as error:  # no network, or a key that the server does not know
                reason = shorten_reason(error)
                self.accelerator.trackers = []  # accelerate keeps one that did not start
                forget_wandb_run()
        log.warning("wandb_mode=online: %s; the run is kept offline, and can be uploaded", reason)
        offline = {**settings, "mode": WandbMode.offline.name}
        self._guard(partial(self._init, experiment, started, offline))

    def log(self, values: dict, step: int) -> None:
        """Send numbers (nested as they like) of a step."""
        flat = flatten({**values, TOKENS: self.tokens_seen})
        keys = [key for key, value in flat.items() if isinstance(value, int | float)]
        numbers = {key: flat[key] for key in keys}
        for tracker in list(self.accelerator.trackers):
            self._guard(partial(tracker.log, numbers, step=step), tracker)

    def end_step(self, step: int) -> None:
        """Let W&B write what it was sent of `step`, which it would keep until the next; it takes no more of it."""
        for tracker in list(self.accelerator.trackers):
            if tracker.name == "wandb":
                self._guard(partial(tracker.log, {}, step=step, commit=True), tracker)

    def log_table(
        self,
        name: str,
        columns: list[str],
        rows: list[list],
        step: int,
    ) -> None:
        """Send a table to the trackers that have such a thing."""
        for tracker in list(self.accelerator.trackers):
            if hasattr(tracker, "log_table"):
                send = partial(tracker.log_table, name, columns=columns, data=rows, step=step)
                self._guard(send, tracker)

    def log_lines(self, name: str, lines: list[dict], step: int) -> None:
        """Send objects as a table, of which each key is a column; the first of very many."""
        shown = lines[:MOST_TABLE_ROWS]
        columns: dict[str, None] = {}
        for line in shown:
            columns |= dict.fromkeys(line)
        rows = []
        for line in shown:
            rows.append([_as_cell(line.get(column)) for column in columns])
        self.log_table(name, list(columns), rows, step)

    def finish(self, result: dict) -> None:
        """Send the final record as summary, and end: without it the next run would go on in this one."""
        told_already = ("curve", "config")
        summary = {key: value for key, value in result.items() if key not in told_already}
        for tracker in list(self.accelerator.trackers):
            if tracker.name == "wandb":
                self._guard(partial(_summarise, tracker, flatten(summary)), tracker)
        for tracker in list(self.accelerator.trackers):
            self._guard(partial(end_tracker, tracker), tracker)

    def _guard(self, action: Callable[[], object], tracker: Any = None) -> None:
        """Do `action`; if it fails, go on without `tracker`, or where that is None without any."""
        try:
            # Standard output is for what a run came to.
            with redirect_stdout(sys.stderr):
                action()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            name = tracker.name if tracker else "tracker"
            reason = shorten_reason(error)
            log.warning("%s stopped working (%s); the run goes on without it", name, reason)
            left = []
            if tracker is not None:
                left = [other for other in self.accelerator.trackers if other is not tracker]
            self.accelerator.trackers = left


def define_axes(run: Any) -> None:
    """Tell W&B to show each series over tokens (steps are a click away), and what its summary keeps of it."""
    run.define_metric(TOKENS)
    for series, summary in SUMMARIES.items():
        run.define_metric(series, step_metric=TOKENS, summary=summary)


def _as_cell(value: Any) -> Any:
    """A value as a table's cell: of a column all must be alike."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def describe_trackio_run(settings: dict) -> dict:
    """What Trackio is told of a run, of what W&B is: it knows a run by its name, and would measure the machine, too."""
    return {
        "name": f"{settings['name']} {settings['id']}",
        "group": settings["group"],
        "resume": "allow",
        "auto_log_gpu": False,
        "auto_log_cpu": False,
    }


def end_tracker(tracker: Any) -> None:
    """End a tracker's run; Trackio would end one that accelerate has ended again when the process does."""
    if tracker.name == "trackio":
        import trackio

        trackio.finish()
    else:
        tracker.finish()


def shorten_reason(error: Exception) -> str:
    """The first line of an error, cut where it is long."""
    return str(error).split("\n")[0][:LONGEST_REASON]


def has_wandb_login() -> bool:
    """Whether W&B finds a key; asked without the prompt that it would show in a terminal."""
    try:
        import wandb

        return bool(os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False))
    except Exception:  # whatever it is, `init` will say it
        return True


def forget_wandb_run() -> None:
    """End W&B's own process, which keeps the id of a run that could not begin."""
    try:
        import wandb

        wandb.teardown()
    except Exception as error:  # the run goes on, and says what does not work
        log.debug("wandb.teardown: %s", error)


def name_run(experiment: Experiment, started: dict) -> str:
    """`lora lr=3e-3 seed=1`, with what else its sweep varies."""
    config = flatten(started["config"])
    words = [experiment.method]
    for key in started.get("varied") or ():
        value = config.get(str(key).replace(".", "/"))
        if key not in ("method", "lr", "seed") and value is not None:
            words.append(f"{key}={value}")
    mantissa, _, power = f"{experiment.lr:.2e}".partition("e")
    words.append(f"lr={mantissa.rstrip('0').rstrip('.')}e{int(power)}")
    words.append(f"seed={experiment.seed}")
    return " ".join(mask_secrets(words))[:LONGEST_NAME]


def list_tags(experiment: Experiment, started: dict) -> list[str]:
    """The user's own tags, and by what runs are looked for: method, model, data and sweep; each once."""
    own = list(experiment.tags or [])
    model = experiment.model.name
    names = [experiment.method, model, experiment.data.name, started.get("sweep")]
    tags = [str(tag)[:LONGEST_TAG] for tag in [*own, *names] if tag]
    return mask_secrets(list(dict.fromkeys(tags)))


def _summarise(tracker: Any, summary: dict) -> None:
    tracker.run.summary.update(summary)
