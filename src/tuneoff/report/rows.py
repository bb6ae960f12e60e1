"""Rows of a comparison: one for each method and setting, with its runs, one a seed, and its prediction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tuneoff.record import RESULTS
from tuneoff.report import stats
from tuneoff.report.records import PAUSED, Run, as_number
from tuneoff.report.text import cut_name

VALIDATION_LOSS = "loss.final"
LEARNING_RATE = "lr"  # a column of its own, so a row's label need not repeat it
# So many rows are grouped by the methods' families, and a column says which.
MANY_ROWS = 20
LOST_STATUSES = frozenset(RESULTS) - {"finished"}


@dataclass(eq=False)
class Row:
    """One method and setting: its runs, one a seed, and the record of its prediction."""

    method: str
    setting: dict
    runs: list[Run]
    predicted_run: Run | None = None
    title: str = ""  # what a reader sees in place of the method's name
    label: str = ""  # the settings that tell it from the other rows of its method, but for the rate
    name: str = ""  # method, label, and the rate where it varies
    _values: dict[str, dict[int, float]] = field(default_factory=dict, repr=False)
    _estimates: dict[str, stats.Estimate | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.title = self.title or self.method

    @property
    def family(self) -> str:
        """The family of its method."""
        return next((run.family for run in self.all_runs), "other")

    @cached_property
    def finished(self) -> dict[int, Run]:
        """Finished runs by seed."""
        return {run.seed: run for run in self.runs if run.finished}

    @property
    def all_finished(self) -> bool:
        """Whether each of its runs finished."""
        return len(self.finished) == len(self.runs)

    @property
    def only_paused(self) -> bool:
        """Whether each of its runs finished or was paused, and one was."""
        statuses = {run.status for run in self.runs}
        return PAUSED in statuses and statuses <= {PAUSED, "finished"}

    @property
    def all_runs(self) -> list[Run]:
        """Its runs, and the prediction's record last."""
        if self.predicted_run is None:
            return self.runs
        return [*self.runs, self.predicted_run]

    @cached_property
    def prediction(self) -> Run | None:
        """The prediction, or what a run predicted of itself under skip_if_over_gib."""
        if self.predicted_run is not None:
            return self.predicted_run
        for run in self.runs:
            own = run.section("prediction")
            if own:
                return Run(run.folder, own, "predicted")
        return None

    @property
    def planned(self) -> int:
        """How many seeds a sweep planned, or were started."""
        seeds = {run.seed for run in self.runs}
        for run in self.runs:
            listed = run.get("planned_seeds")
            if isinstance(listed, list):
                seeds.update(seed for seed in listed if isinstance(seed, int))
        return len(seeds)

    @property
    def outcome(self) -> str:
        """What became of its runs, such as `finished 4, diverged 1`."""
        counts = Counter(run.status for run in self.runs)
        if not counts:
            counts["predicted"] = 1
        statuses = sorted(counts, key=lambda status: (status != "finished", status))
        words = [f"{status.replace('_', ' ')} {counts[status]}" for status in statuses]
        return ", ".join(words)

    def first_value(self, path: str) -> Any:
        """Return the first known value at a path: of finished runs first, then the others, then the prediction."""
        for run in [*self.finished.values(), *self.all_runs]:
            value = run.get(path)
            if value is not None:
                return value
        return None

    @property
    def tuning(self) -> dict:
        """What a sweep's tuning did to find this setting; empty where there was none."""
        tuning = self.first_value("tuning")
        return _as_dict(tuning)

    @property
    def tuned_otherwise(self) -> dict[str, list]:
        """The settings that were others in the tuning, each with its value there and here; not the rate itself."""
        otherwise = {**_as_dict(self.tuning.get("differs")), **self._overridden}
        otherwise.pop(LEARNING_RATE, None)
        return {key: values for key, values in otherwise.items() if isinstance(values, list)}

    @property
    def _overridden(self) -> dict[str, list]:
        """What the tuning found and the run did not take, each with its value there and here."""
        best = _as_dict(self.tuning.get("best"))
        own = _as_dict(self.tuning.get("overridden"))
        overridden = {}
        for key, value in own.items():
            overridden[key] = [best.get(key), value]
        return overridden

    @property
    def tuned_rate(self) -> object:
        """The rate that the tuning found, where the runs took another; else None."""
        there_and_here = self._overridden.get(LEARNING_RATE)
        return there_and_here[0] if there_and_here else None

    @property
    def has_tuned_rate(self) -> bool:
        """Whether a tuning found its learning rate. Older records do not say where a rate is from."""
        source = self.first_value("lr_source")
        return bool(self.tuning) and source in (None, "tuned") and self.tuned_rate is None

    @property
    def lost_seeds(self) -> set[int]:
        """The seeds that came to an end without a loss: they diverged, or had too little memory."""
        return {run.seed for run in self.runs if run.status in LOST_STATUSES}

    @property
    def diverged(self) -> int:
        """How many of its seeds diverged, and so have no figures."""
        return sum(run.status == "diverged" for run in self.runs)

    @property
    def has_default_rate(self) -> bool:
        """Whether the learning rate is the method's default, which nobody tuned on this problem."""
        return self.first_value("lr_source") == "default"

    def values_by_seed(self, path: str) -> dict[int, float]:
        """Return the number at a path for every finished seed that has it."""
        if path not in self._values:
            values = {}
            for seed, run in self.finished.items():
                number = run.number(path)
                if number is not None:
                    values[seed] = number
            self._values[path] = values
        return self._values[path]

    def estimate(self, path: str) -> stats.Estimate | None:
        """Return the mean and interval over seeds of the number at a path."""
        if path not in self._estimates:
            values = self.values_by_seed(path)
            self._estimates[path] = stats.estimate_mean(list(values.values()))
        return self._estimates[path]

    @property
    def mean_validation_loss(self) -> float:
        """The mean over seeds; infinity where there is none."""
        loss = self.estimate(VALIDATION_LOSS)
        return loss.mean if loss else np.inf

    def differences_to(self, baseline: "Row", path: str) -> list[float]:
        """Return the differences to another row of the number at a path, one for each seed that both have finished."""
        values = self.values_by_seed(path)
        base = baseline.values_by_seed(path)
        common = sorted(values.keys() & base.keys())
        return [values[seed] - base[seed] for seed in common]

    def scores_by_seed(self, metric: str) -> dict[int, np.ndarray]:
        """Return the scores of the examples for every finished seed that has them; empty where seeds saw others."""
        by_seed = {}
        for seed, run in self.finished.items():
            scores = run.scores(metric)
            if scores is not None:
                by_seed[seed] = scores
        lengths = {len(scores) for scores in by_seed.values()}
        return by_seed if len(lengths) == 1 else {}

    @cached_property
    def peaks(self) -> dict[str, float]:
        """Highest peak over seeds, by phase, in GiB. Runs that ran out of memory have reached no peak of their own."""
        highest: dict[str, float] = {}
        for run in self.finished.values():
            for phase, peak in run.peaks.items():
                highest[phase] = max(peak, highest.get(phase, 0.0))
        return highest

    @property
    def measured_steps(self) -> int | None:
        """Over how many steps a run measured its throughput: the fewest over seeds."""
        counts = self.values_by_seed("throughput.measured_steps").values()
        return int(min(counts)) if counts else None

    @property
    def train_peak(self) -> float | None:
        """Peak while training, or over all phases where none has that name."""
        return self.peaks.get("train", max(self.peaks.values(), default=None))

    @cached_property
    def rate(self) -> float | None:
        """The learning rate of the setting."""
        return as_number(self.setting.get(LEARNING_RATE))


def _as_dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def first_known(rows: Sequence[Row], path: str) -> Any:
    """Return the first known value of any row at a path of its record."""
    for row in rows:
        value = row.first_value(path)
        if value is not None:
            return value
    return None


def varied_keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys of the setting in which rows differ, sorted."""
    keys = {key for row in rows for key in row.setting}
    varied = []
    for key in sorted(keys):
        values = {str(row.setting.get(key)) for row in rows}
        if len(values) > 1:
            varied.append(key)
    return varied


def show_setting(row: Row, key: str) -> str:
    """Return the value of a row's setting as text, cut where it is long."""
    return cut_name(str(row.setting.get(key)))
