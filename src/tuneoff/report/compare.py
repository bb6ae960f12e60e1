"""Makes comparisons out of runs: rows of one method and setting, seeds paired, and the verdict of the statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tuneoff.record import flatten
from tuneoff.report import comparability, stats
from tuneoff.report.records import PHASES, ReportError, Run, as_number
from tuneoff.report.rows import Row, rows_of

DERIVED = "perplexity"  # the loss in other units: shown, but not tested a second time
LOWER_IS_BETTER = ("loss", "perplexity", "forgetting", "error")
LABELS = {"test": "Test loss", "final": "Validation loss"}


@dataclass
class Quality:
    """A measure that decides: the loss, or a task metric."""

    path: str
    title: str
    lower_is_better: bool

    @property
    def key(self) -> str:
        """Its column's key."""
        return self.path.removeprefix("metrics.").replace("loss.", "loss_")

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
        """Each method's row with the lowest validation loss, for charts that show a method once."""
        return self._best(lambda row: (row.method,))

    @property
    def tuned_rows(self) -> list[Row]:
        """Each setting's row at its best learning rate."""
        return self._best(lambda row: (row.method, row.label))

    def _best(self, part: Callable[[Row], tuple[str, ...]]) -> list[Row]:
        """The row of each part with the lowest validation loss.

        Rows that were ranked come first: a tuning run is no competitor to the comparison it was made for.
        """
        best: dict[tuple[str, ...], Row] = {}
        ranked = [
            row
            for row in self.rows
            if row.finished and self.qualities and row.values(self.qualities[0].path)
        ]
        for row in sorted(ranked or [row for row in self.rows if row.finished], key=_validation):
            best.setdefault(part(row), row)
        return [best[name] for name in sorted(best)]

    def examples(self, quality: Quality, row: Row, difference: bool = False) -> np.ndarray | None:
        """Each example's mean score over seeds, or over common seeds its mean difference to the baseline's score."""
        mine = row.scores(quality.key)
        if difference:
            base = self.rows[self.baseline].scores(quality.key) if self.baseline is not None else {}
            mine = {
                seed: mine[seed] - base[seed]
                for seed in mine.keys() & base.keys()
                if len(mine[seed]) == len(base[seed])
            }
        return np.mean(list(mine.values()), axis=0) if mine else None

    def difference(self, quality: Quality, row: Row) -> stats.Estimate | None:
        """Paired difference to the baseline over common seeds; None for the baseline itself or without one."""
        if self.baseline is None or row is self.rows[self.baseline]:
            return None
        mine, base = row.values(quality.path), self.rows[self.baseline].values(quality.path)
        return stats.estimate(
            [mine[seed] - base[seed] for seed in sorted(mine.keys() & base.keys())]
        )


def _validation(row: Row) -> float:
    found = row.estimate("loss.final")
    return found.mean if found else np.inf


def compare(runs: Sequence[Run], baseline: str | None, strict: bool) -> list[Comparison]:
    """Comparisons, the largest first; more than one where records differ in what must agree.

    Raises:
        ReportError: no record has the baseline, or records must be split and `strict` refuses.
    """
    groups = comparability.split(runs)
    differing = comparability.differences(groups)
    if strict and len(groups) > 1:
        why = "; ".join(
            f"{name} ({', '.join(dict.fromkeys(values))})" for name, values in differing.items()
        )
        raise ReportError(f"--strict: the records cannot stand in one table, they differ in {why}")
    names = [
        chr(ord("A") + index) if index < 26 else f"Z{index - 25}" for index in range(len(groups))
    ]
    found = [_comparison(name, group, baseline) for name, group in zip(names, groups, strict=True)]
    for place, each in enumerate(found):
        if differing:
            shown = "; ".join(f"{field} {values[place]}" for field, values in differing.items())
            each.notes.append(f"Not comparable with the other tables of this report: {shown}.")
    known = sorted(
        {label for each in found for row in each.rows for label in (row.method, row.name)}
    )
    if baseline is not None and baseline not in known:
        raise ReportError(f"--baseline {baseline}: must be one of {', '.join(known)}")
    return found


def _comparison(name: str, runs: Sequence[Run], baseline: str | None) -> Comparison:
    rows, notes = rows_of(runs)
    place, reason = _baseline(rows, baseline)
    made = Comparison(name, rows, place, reason, _qualities(rows), notes=notes)
    made.verdicts = stats.judge([_matrix(rows, quality) for quality in made.qualities], place)
    made.notes += _notes(made)
    return made


def _baseline(rows: Sequence[Row], wanted: str | None) -> tuple[int | None, str]:
    """The row that others are compared with: as asked, or the one that trains most at once with most state."""
    candidates = [
        index
        for index, row in enumerate(rows)
        if row.finished and (wanted is None or wanted in (row.method, row.name))
    ]
    if not candidates or len(rows) == 1:
        return None, "" if wanted is None or len(
            rows
        ) == 1 else f"no finished run of the baseline {wanted}"
    if wanted is not None:
        return min(
            candidates, key=lambda index: (_validation(rows[index]), rows[index].name)
        ), "as asked"

    def size(index: int) -> tuple:
        run = next(iter(rows[index].finished.values()))
        kept = sum(run.breakdown.get(part, 0.0) for part in ("gradients", "optimizer_state"))
        return (
            -(run.number("parameters.trainable") or 0),
            -round(kept, 3),
            _validation(rows[index]),
            rows[index].name,
        )

    return min(candidates, key=size), "it trains the most parameters; --baseline chooses another"


def _qualities(rows: Sequence[Row]) -> list[Quality]:
    """The test loss where there is one (rows without are not ranked), else the validation loss; then task metrics."""
    runs = [run for row in rows for run in row.finished.values()]
    if not runs:
        return []
    loss = "test" if any(run.number("loss.test") is not None for run in runs) else "final"
    metrics = {
        key
        for run in runs
        for key, value in flatten(run.table("metrics")).items()
        if as_number(value) is not None and "." not in key
    } - {DERIVED}
    found = [Quality(f"loss.{loss}", LABELS[loss], True)]
    for key in sorted(metrics):
        lower = any(word in key.lower() for word in LOWER_IS_BETTER)
        found.append(
            Quality(
                f"metrics.{key.replace('/', '.')}", key.replace("_", " ").replace("/", ", "), lower
            )
        )
    return found


def _matrix(rows: Sequence[Row], quality: Quality) -> np.ndarray:
    """(rows, seeds) of a measure, negated where higher is better; NaN where there is no figure."""
    seeds = sorted({seed for row in rows for seed in row.finished})
    sign = 1 if quality.lower_is_better else -1
    values = [row.values(quality.path) for row in rows]
    return np.array(
        [[sign * found.get(seed, np.nan) for seed in seeds] for found in values]
    ).reshape(len(rows), -1)


def _notes(made: Comparison) -> list[str]:
    """What a reader must know about the rows: few seeds, other code, other batches."""
    notes = []
    done = [row for row in made.rows if row.finished]
    few = [row.name for row in done if len(row.finished) < stats.LEAST_SEEDS]
    if few:
        shown = "any row" if len(few) == len(done) > 1 else ", ".join(few[:6])
        more = f" and {len(few) - 6} more" if len(few) > 6 and len(few) < len(done) else ""
        notes.append(
            f"No interval for {shown}{more}: fewer than {stats.LEAST_SEEDS} seeds have finished, and one or "
            "two runs say nothing about the spread."
        )
    for name, path in (
        ("git commit", "provenance.git.commit"),
        ("uncommitted changes", "provenance.git.dirty"),
    ):
        values = sorted(
            {str(value)[:12] for run in made.runs if (value := run.get(path)) is not None}
        )
        if len(values) > 1:
            notes.append(f"The runs differ in {name}: {', '.join(values)}. Labelled, not split.")
    if made.baseline is not None:
        base = made.rows[made.baseline]
        other = [
            row.name
            for row in made.rows
            if any(
                (order := run.get("provenance.batch_order_hash"))
                and seed in base.finished
                and base.finished[seed].get("provenance.batch_order_hash") not in (order, None)
                for seed, run in row.finished.items()
            )
        ]
        if other:
            notes.append(f"Other batches than the baseline's at the same seed: {', '.join(other)}.")
    return notes
