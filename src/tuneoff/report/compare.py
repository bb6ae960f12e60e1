"""Makes comparisons out of runs: rows of one method and setting, seeds paired, and the verdict of the statistics."""
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tuneoff.record import flatten
from tuneoff.report import guard, stats
from tuneoff.report.read import PHASES, ReportError, Run, as_number

RATE = "lr"  # a column of its own, so a row's label need not repeat it
NOT_OF_A_PREDICTION = {"task", "gib", "epochs", "max_steps", "max_tokens", "max_seconds"}
LOWER_IS_BETTER = ("loss", "perplexity", "forgetting", "error")
LABELS = {"test": "Test loss", "final": "Validation loss"}


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

    @property
    def planned(self) -> int:
        """Seeds that a sweep planned, or that were started."""
        seeds = {run.seed for run in self.runs}
        for run in self.runs:
            listed = run.get("planned_seeds")
            seeds |= {seed for seed in listed if isinstance(seed, int)} if isinstance(listed, list) else set()
        return len(seeds)

    @property
    def outcome(self) -> str:
        """What became of its runs, such as `finished 4, diverged 1`."""
        counts = Counter(run.status for run in self.runs) or Counter({"predicted": 1})
        return ", ".join(f"{status.replace('_', ' ')} {count}" for status, count in
                         sorted(counts.items(), key=lambda item: (item[0] != "finished", item[0])))

    def first(self, path: str) -> object:
        """The first known value at a path: finished runs first, then the others, then the prediction."""
        order = [*self.finished.values(), *self.runs, *([self.prediction] if self.prediction else [])]
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
        return self.peaks.get("train", max(self.peaks.values(), default=None))  # type: ignore[type-var]

    @cached_property
    def rate(self) -> float | None:
        """The learning rate of the setting."""
        return as_number(self.setting.get(RATE))


@dataclass
class Quality:
    """A measure that decides: the loss, or a task metric."""
    path: str
    title: str
    lower_is_better: bool

    @property
    def heading(self) -> str:
        """The title as it begins a line."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def unit(self) -> str:
        """What follows the title on an axis."""
        return " (nats per token)" if self.path.startswith("loss.") else ""


@dataclass
class Comparison:
    """Runs that may stand in one table, as rows, with what the statistics say about them."""
    name: str
    rows: list[Row]
    baseline: int | None
    baseline_reason: str
    qualities: list[Quality] = field(default_factory=list)
    verdicts: list[stats.Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """All runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def phases(self) -> list[str]:
        """Phases that any finished row has, in their order."""
        seen = {phase for row in self.rows for phase in row.peaks}
        return [phase for phase in PHASES if phase in seen] + sorted(seen - set(PHASES))

    @property
    def best_rows(self) -> list[Row]:
        """Each method's row with the lowest validation loss, for charts that show a method once.

        Rows that were ranked come first: a tuning run is no competitor to the comparison it was made for.
        """
        best: dict[str, Row] = {}
        ranked = [row for row in self.rows if row.finished and self.qualities and row.values(self.qualities[0].path)]
        for row in sorted(ranked or [row for row in self.rows if row.finished], key=_validation):
            best.setdefault(row.method, row)
        return [best[method] for method in sorted(best)]

    def difference(self, quality: Quality, row: Row) -> stats.Estimate | None:
        """Paired difference to the baseline over common seeds; None for the baseline itself or without one."""
        if self.baseline is None or row is self.rows[self.baseline]:
            return None
        mine, base = row.values(quality.path), self.rows[self.baseline].values(quality.path)
        return stats.estimate([mine[seed] - base[seed] for seed in sorted(mine.keys() & base.keys())])


def _validation(row: Row) -> float:
    found = row.estimate("loss.final")
    return found.mean if found else np.inf


def compare(runs: Sequence[Run], baseline: str | None, strict: bool) -> list[Comparison]:
    """Comparisons, the largest first; more than one where records differ in what must agree.

    Raises:
        ReportError: no record has the baseline, or records must be split and `strict` refuses.
    """
    groups = guard.split(runs)
    differing = guard.differences(groups)
    if strict and len(groups) > 1:
        why = "; ".join(f"{name} ({', '.join(dict.fromkeys(values))})" for name, values in differing.items())
        raise ReportError(f"--strict: the records cannot stand in one table, they differ in {why}")
    names = [chr(ord("A") + index) if index < 26 else f"Z{index - 25}" for index in range(len(groups))]
    found = [_comparison(name, group, baseline) for name, group in zip(names, groups, strict=True)]
    for place, each in enumerate(found):
        if differing:
            shown = "; ".join(f"{field} {values[place]}" for field, values in differing.items())
            each.notes.append(f"Not comparable with the other tables of this report: {shown}.")
    known = sorted({label for each in found for row in each.rows for label in (row.method, row.name)})
    if baseline is not None and baseline not in known:
        raise ReportError(f"--baseline {baseline}: must be one of {', '.join(known)}")
    return found


def _comparison(name: str, runs: Sequence[Run], baseline: str | None) -> Comparison:
    rows, notes = _rows(runs)
    place, reason = _baseline(rows, baseline)
    made = Comparison(name, rows, place, reason, _qualities(rows), notes=notes)
    made.verdicts = stats.judge([_matrix(rows, quality) for quality in made.qualities], place)
    made.notes += _notes(made)
    return made


def _rows(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    by_setting: dict[tuple, list[Run]] = {}
    predictions = [run for run in runs if run.predicted]
    for run in runs:
        if not run.predicted:
            by_setting.setdefault((run.method, guard._text(run.setting)), []).append(run)
    rows = [Row(method, members[0].setting, _one_a_seed(members)) for (method, _), members in by_setting.items()]
    repeated = sum(map(len, by_setting.values())) - sum(len(row.runs) for row in rows)
    notes = [f"{repeated} run(s) repeat a setting and seed: the newest finished one counts."] if repeated else []
    for prediction in predictions:
        matching = [row for row in rows if _predicts(prediction, row)]
        for row in matching:
            row.prediction = row.prediction or prediction
        if not matching:
            rows.append(Row(prediction.method, prediction.setting, [], prediction))
    _label(rows)
    return sorted(rows, key=lambda row: (row.method, [_natural(row.setting.get(key)) for key in sorted(row.setting)],
                                         row.name)), notes


def _natural(value: object) -> tuple:
    number = as_number(value)
    return (0, number, "") if number is not None else (1, 0.0, str(value))


def _one_a_seed(runs: list[Run]) -> list[Run]:
    """The finished run of each seed, or the newest: the same seed twice is not two seeds."""
    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (run.finished, str(run.get("finished_at")), run.folder)):
        chosen[run.seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def _predicts(prediction: Run, row: Row) -> bool:
    common = (prediction.setting.keys() & row.setting.keys()) - NOT_OF_A_PREDICTION
    return prediction.method == row.method and all(prediction.setting[key] == row.setting[key] for key in common)


def _label(rows: Sequence[Row]) -> None:
    """Name a row by the settings in which the rows of its method differ."""
    for method in {row.method for row in rows}:
        mine = [row for row in rows if row.method == method]
        keys = [key for key in sorted({key for row in mine for key in row.setting})
                if len({str(row.setting.get(key)) for row in mine}) > 1]
        for row in mine:
            words = {key: f"{key}={row.setting.get(key)}" for key in keys}
            row.label = ", ".join(word for key, word in words.items() if key != RATE)
            row.name = " ".join(filter(None, [method, row.label, words.get(RATE)]))


def _baseline(rows: Sequence[Row], wanted: str | None) -> tuple[int | None, str]:
    """The row that others are compared with: as asked, or the one that trains most at once with most state."""
    candidates = [index for index, row in enumerate(rows) if row.finished
                  and (wanted is None or wanted in (row.method, row.name))]
    if not candidates or len(rows) == 1:
        return None, "" if wanted is None or len(rows) == 1 else f"no finished run of the baseline {wanted}"
    if wanted is not None:
        return min(candidates, key=lambda index: (_validation(rows[index]), rows[index].name)), "as asked"

    def size(index: int) -> tuple:
        run = next(iter(rows[index].finished.values()))
        kept = sum(run.breakdown.get(part, 0.0) for part in ("gradients", "optimizer_state"))
        return (-(run.number("parameters.trainable") or 0), -round(kept, 3), _validation(rows[index]), rows[index].name)
    return min(candidates, key=size), "it trains and keeps the most; --baseline chooses another"


def _qualities(rows: Sequence[Row]) -> list[Quality]:
    """The test loss where there is one (rows without are not ranked), else the validation loss; then task metrics."""
    runs = [run for row in rows for run in row.finished.values()]
    if not runs:
        return []
    loss = "test" if any(run.number("loss.test") is not None for run in runs) else "final"
    metrics = {key for run in runs for key, value in flatten(run.table("metrics")).items()
               if as_number(value) is not None and "." not in key}
    found = [Quality(f"loss.{loss}", LABELS[loss], True)]
    for key in sorted(metrics):
        lower = any(word in key.lower() for word in LOWER_IS_BETTER)
        found.append(Quality(f"metrics.{key.replace('/', '.')}", key.replace("_", " ").replace("/", ", "), lower))
    return found


def _matrix(rows: Sequence[Row], quality: Quality) -> np.ndarray:
    """(rows, seeds) of a measure, negated where higher is better; NaN where there is no figure."""
    seeds = sorted({seed for row in rows for seed in row.finished})
    sign = 1 if quality.lower_is_better else -1
    values = [row.values(quality.path) for row in rows]
    return np.array([[sign * found.get(seed, np.nan) for seed in seeds] for found in values]).reshape(len(rows), -1)


def _notes(made: Comparison) -> list[str]:
    """What a reader must know about the rows: few seeds, other code, other batches."""
    notes = []
    few = [row.name for row in made.rows if 0 < len(row.finished) < stats.LEAST_SEEDS]
    if few:
        shown = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
        notes.append(f"No interval where fewer than {stats.LEAST_SEEDS} seeds have finished ({shown}): "
                     "one or two runs say nothing about the spread.")
    for name, path in (("git commit", "provenance.git.commit"), ("uncommitted changes", "provenance.git.dirty")):
        values = sorted({str(value)[:12] for run in made.runs if (value := run.get(path)) is not None})
        if len(values) > 1:
            notes.append(f"The runs differ in {name}: {', '.join(values)}. Labelled, not split.")
    if made.baseline is not None:
        base = made.rows[made.baseline]
        other = [row.name for row in made.rows if any(
            (order := run.get("provenance.batch_order_hash")) and seed in base.finished
            and base.finished[seed].get("provenance.batch_order_hash") not in (order, None)
            for seed, run in row.finished.items())]
        if other:
            notes.append(f"Other batches than the baseline's at the same seed: {', '.join(other)}.")
    return notes
