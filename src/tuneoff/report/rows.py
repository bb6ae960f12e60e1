"""Rows of a comparison: one for each method and setting, with its runs, one a seed, and its prediction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tuneoff.record import NOT_PREDICTED
from tuneoff.report import comparability, stats
from tuneoff.report.records import Run, as_number

RATE = "lr"  # a column of its own, so a row's label need not repeat it


@dataclass
class Row:
    """One method and setting: its runs, one a seed, and its prediction."""

    method: str
    setting: dict
    runs: list[Run]
    prediction: Run | None = None
    label: str = ""  # the settings that tell it from the other rows of its method, but for the rate
    name: str = ""  # method, label, and the rate where it varies
    _values: dict[str, dict[int, float]] = field(default_factory=dict, repr=False)

    @cached_property
    def finished(self) -> dict[int, Run]:
        """Finished runs by seed."""
        return {run.seed: run for run in self.runs if run.finished}

    @cached_property
    def foreseen(self) -> Run | None:
        """The prediction, or what a run foresaw of itself under skip_if_over_gib."""
        own = next((run for run in self.runs if run.table("prediction")), None)
        return self.prediction or (own and Run(own.folder, own.table("prediction"), "predicted"))

    @property
    def planned(self) -> int:
        """Seeds that a sweep planned, or that were started."""
        seeds = {run.seed for run in self.runs}
        for run in self.runs:
            listed = run.get("planned_seeds")
            seeds |= (
                {seed for seed in listed if isinstance(seed, int)}
                if isinstance(listed, list)
                else set()
            )
        return len(seeds)

    @property
    def outcome(self) -> str:
        """What became of its runs, such as `finished 4, diverged 1`."""
        counts = Counter(run.status for run in self.runs) or Counter({"predicted": 1})
        return ", ".join(
            f"{status.replace('_', ' ')} {count}"
            for status, count in sorted(
                counts.items(), key=lambda item: (item[0] != "finished", item[0])
            )
        )

    def first(self, path: str) -> object:
        """The first known value at a path: finished runs first, then the others, then the prediction."""
        order = [
            *self.finished.values(),
            *self.runs,
            *([self.prediction] if self.prediction else []),
        ]
        return next((value for run in order if (value := run.get(path)) is not None), None)

    def values(self, path: str) -> dict[int, float]:
        """The number at a path for every finished seed that has it."""
        if path not in self._values:
            found = {seed: run.number(path) for seed, run in self.finished.items()}
            self._values[path] = {seed: value for seed, value in found.items() if value is not None}
        return self._values[path]

    def estimate(self, path: str) -> stats.Estimate | None:
        """Mean and interval over seeds of the number at a path."""
        return stats.estimate(list(self.values(path).values()))

    def scores(self, metric: str) -> dict[int, np.ndarray]:
        """For every finished seed that has them, the scores of the examples; empty where seeds saw others."""
        found = {
            seed: scores
            for seed, run in self.finished.items()
            if (scores := run.scores(metric)) is not None
        }
        return found if len({len(scores) for scores in found.values()}) == 1 else {}

    @cached_property
    def peaks(self) -> dict[str, float]:
        """Highest peak over seeds, by phase, in GiB. Runs that ran out of memory have reached no peak of their own."""
        phases: dict[str, float] = {}
        for run in self.finished.values():
            for phase, peak in run.peaks.items():
                phases[phase] = max(peak, phases.get(phase, 0.0))
        return phases

    @property
    def train_peak(self) -> float | None:
        """Peak while training, or over all phases where none has that name."""
        return self.peaks.get("train", max(self.peaks.values(), default=None))

    @cached_property
    def rate(self) -> float | None:
        """The learning rate of the setting."""
        return as_number(self.setting.get(RATE))


def rows_of(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """A row for each method and setting, in order, and what must be said of how they were made."""
    by_setting: dict[tuple, list[Run]] = {}
    predictions = [run for run in runs if run.predicted]
    for run in runs:
        if not run.predicted:
            by_setting.setdefault((run.method, comparability._text(run.setting)), []).append(run)
    rows = [
        Row(method, members[0].setting, _one_a_seed(members))
        for (method, _), members in by_setting.items()
    ]
    repeated = sum(map(len, by_setting.values())) - sum(len(row.runs) for row in rows)
    notes = (
        [f"{repeated} run(s) repeat a setting and seed: the newest finished one counts."]
        if repeated
        else []
    )
    for prediction in predictions:
        matching = [row for row in rows if _predicts(prediction, row)]
        for row in matching:
            row.prediction = row.prediction or prediction
        if not matching:
            rows.append(Row(prediction.method, prediction.setting, [], prediction))
    _label(rows)
    return sorted(
        rows,
        key=lambda row: (
            row.method,
            [_natural(row.setting.get(key)) for key in sorted(row.setting)],
            row.name,
        ),
    ), notes


def _natural(value: object) -> tuple:
    number = as_number(value)
    return (0, number, "") if number is not None else (1, 0.0, str(value))


def _one_a_seed(runs: list[Run]) -> list[Run]:
    """The finished run of each seed, or the newest: the same seed twice is not two seeds."""
    chosen: dict[int, Run] = {}
    for run in sorted(
        runs, key=lambda run: (run.finished, str(run.get("finished_at")), run.folder)
    ):
        chosen[run.seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def _predicts(prediction: Run, row: Row) -> bool:
    common = (prediction.setting.keys() & row.setting.keys()).difference(NOT_PREDICTED)
    return prediction.method == row.method and all(
        prediction.setting[key] == row.setting[key] for key in common
    )


def _label(rows: Sequence[Row]) -> None:
    """Name a row by the settings in which the rows of its method differ."""
    for method in {row.method for row in rows}:
        mine = [row for row in rows if row.method == method]
        keys = [
            key
            for key in sorted({key for row in mine for key in row.setting})
            if len({str(row.setting.get(key)) for row in mine}) > 1
        ]
        for row in mine:
            words = {key: f"{key}={row.setting.get(key)}" for key in keys}
            row.label = ", ".join(word for key, word in words.items() if key != RATE)
            row.name = " ".join(filter(None, [method, row.label, words.get(RATE)]))
