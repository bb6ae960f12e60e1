"""Tables: the columns of a comparison, in reading order, and what a method implies beside them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tuneoff.record import FAMILIES
from tuneoff.record.judgement import LEAST_MEASURED_STEPS
from tuneoff.report import stats
from tuneoff.report.cells import (
    LARGEST_COUNT,
    MISSING,
    Cell,
    Figure,
    difference_cell,
    estimate_cell,
    format_count,
    format_figure,
    format_percent,
    format_rate,
    gib_cell,
    text_cell,
)
from tuneoff.report.compare import Comparison
from tuneoff.report.labels import LABELS, TOKENS_SEEN
from tuneoff.report.qualities import DERIVED, LOSS_TITLES, Quality
from tuneoff.report.ranking import Verdict
from tuneoff.report.records import as_number
from tuneoff.report.rows import MANY_ROWS, Row
from tuneoff.report.serving import SERVING_COLUMNS
from tuneoff.report.text import cut_name
from tuneoff.report.tuning_cells import rates_cell, tuning_cost_cell


@dataclass(frozen=True)
class Column:
    """A heading, the key and unit that CSV uses, and a cell a row."""

    key: str
    title: str
    cells: list[Cell]
    numeric: bool = True

    @property
    def empty(self) -> bool:
        """Whether no row has anything here."""
        return all(cell.text == MISSING for cell in self.cells)


def make_columns(comparison: Comparison) -> list[Column]:
    """All columns of a comparison that say something, in reading order; made once, for all that is written of it."""
    if comparison.columns is None:
        comparison.columns = _make_all_columns(comparison)
    return comparison.columns


def _make_all_columns(comparison: Comparison) -> list[Column]:
    columns = [
        *_name_columns(comparison),
        *_quality_columns(comparison),
        *_cost_columns(comparison),
        *_serving_columns(comparison),
        *_labelled_columns(comparison),
        *_tuning_columns(comparison),
    ]
    return [column for column in columns if not column.empty or column.key == "setting"]


def _make_column(
    comparison: Comparison,
    key: str,
    title: str,
    make_cell: Callable[[Row], Cell],
    numeric: bool = True,
) -> Column:
    cells = [make_cell(row) for row in comparison.rows]
    return Column(key, title, cells, numeric)


def _estimate_column(comparison: Comparison, key: str, title: str, path: str) -> Column:
    """A column of the means over seeds of the number at a path of the record."""
    return _make_column(comparison, key, title, lambda row: estimate_cell(row.estimate(path)))


# ---------------------------------------------------------------- names and quality
def _name_columns(comparison: Comparison) -> Iterator[Column]:
    """What a row is: method, setting, parameters, rate."""
    yield _make_column(
        comparison, "method", "Method", lambda row: text_cell(row.title), numeric=False
    )
    if len(comparison.rows) >= MANY_ROWS:
        yield _make_column(comparison, "family", "Family", _family_cell, numeric=False)
    if any(row.label for row in comparison.rows):
        yield _make_column(
            comparison, "setting", "Setting", lambda row: text_cell(row.label), numeric=False
        )
    for key, title in (("trainable", "Trainable"), ("ever_trained", "Ever trained")):
        yield _make_column(comparison, key, title, partial(_parameters_cell, key))
    yield _make_column(comparison, "lr", "Learning rate", _rate_cell)


def _family_cell(row: Row) -> Cell:
    return text_cell(FAMILIES[row.family])


def _quality_columns(comparison: Comparison) -> Iterator[Column]:
    """What a row came to: losses, task metrics, and how many of its runs finished."""
    qualities = comparison.qualities
    if qualities and qualities[0].path == "loss.test":
        yield _estimate_column(comparison, "validation_loss", LOSS_TITLES["final"], "loss.final")
    for quality, verdict in zip(qualities, comparison.verdicts, strict=True):
        yield _quality_column(comparison, quality, verdict)
        if comparison.baseline is not None:
            yield _difference_column(comparison, quality, verdict)
    yield _make_column(comparison, DERIVED, "Perplexity", partial(_perplexity_cell, qualities))
    yield _make_column(comparison, "seeds", "Seeds", _seeds_cell)
    if not all(row.runs and row.all_finished for row in comparison.rows):
        yield _make_column(
            comparison, "outcome", "Outcome", lambda row: text_cell(row.outcome), numeric=False
        )


def _perplexity_cell(qualities: Sequence[Quality], row: Row) -> Cell:
    """The mean over the runs that have the loss of this table: of others it is of another split."""
    perplexities = row.values_by_seed(f"metrics.{DERIVED}")
    losses = row.values_by_seed(qualities[0].path) if qualities else {}
    kept = [value for seed, value in perplexities.items() if seed in losses]
    return estimate_cell(stats.estimate_mean(kept))


def _quality_column(comparison: Comparison, quality: Quality, verdict: Verdict) -> Column:
    cells = []
    for row, bold in zip(comparison.rows, verdict.bold, strict=True):
        examples = comparison.example_scores(quality, row)
        cells.append(estimate_cell(row.estimate(quality.path), bool(bold), examples))
    return Column(quality.key, quality.heading + _direction(quality), cells)


def _direction(quality: Quality) -> str:
    """The arrow behind a metric's title; of a loss everybody knows which way is better."""
    if quality.path.startswith("loss."):
        return ""
    return " ↓" if quality.lower_is_better else " ↑"


def _difference_column(comparison: Comparison, quality: Quality, verdict: Verdict) -> Column:
    """Each row's paired difference to the baseline."""
    baseline = comparison.baseline
    assert baseline is not None
    base = baseline.estimate(quality.path)
    cells = []
    for row, p in zip(comparison.rows, verdict.p, strict=True):
        if row is baseline:
            cells.append(Cell("baseline", 0.0))
            continue
        examples = comparison.example_differences(quality, row)
        cell = difference_cell(comparison.difference(quality, row), base, examples)
        mark = " *" if p < stats.ALPHA else ""
        adjusted = None if math.isnan(p) else float(p)
        figures = {**cell.figures, "holm_p": adjusted}
        cells.append(Cell(cell.text + mark, cell.value, figures=figures))
    title = quality.title[0].lower() + quality.title[1:]
    return Column(f"{quality.key}_difference", f"Δ {title}", cells)


# ---------------------------------------------------------------- costs
def _cost_columns(comparison: Comparison) -> Iterator[Column]:
    """What a row took: time and memory, measured and predicted."""
    yield _make_column(comparison, "tokens_per_second", "Tokens/s", _speed_cell)
    yield _estimate_column(comparison, "train_seconds", "Training (s)", "throughput.train_seconds")
    for phase in comparison.phases:
        yield _make_column(
            comparison, f"peak_{phase}_gib", f"Peak {phase} (GiB)", partial(_peak_cell, phase)
        )
    yield _make_column(
        comparison, "predicted_peak_gib", "Predicted peak train (GiB)", _predicted_cell
    )
    yield _make_column(comparison, "needed_gib", "Card needed (GiB)", _needed_cell)
    yield _make_column(comparison, "largest_batch", "Largest batch", _largest_batch_cell)


def _speed_cell(row: Row) -> Cell:
    """The throughput, with a mark where a run measured too few steps for a rate."""
    cell = estimate_cell(row.estimate("throughput.tokens_per_second"))
    steps = row.measured_steps
    text = cell.text
    if steps is not None and steps < LEAST_MEASURED_STEPS and text != MISSING:
        text += " †"
    return Cell(text, cell.value, figures={**cell.figures, "measured_steps": steps})


def _peak_cell(phase: str, row: Row) -> Cell:
    return gib_cell(row.peaks.get(phase))


def _predicted_cell(row: Row) -> Cell:
    if row.prediction is None:
        return gib_cell(None)
    peaks = row.prediction.peaks
    return gib_cell(peaks.get("train", max(peaks.values(), default=None)))


def _needed_cell(row: Row) -> Cell:
    """What a card must have, CUDA's own share included."""
    if row.prediction is None:
        return gib_cell(None)
    return gib_cell(row.prediction.number("needed_gib"))


def _largest_batch_cell(row: Row) -> Cell:
    """The largest batch that a prediction fits into a card."""
    batch_size = None
    gib = None
    if row.prediction is not None:
        batch_size = row.prediction.number("largest_batch.batch_size")
        gib = row.prediction.number("largest_batch.gib")
    figures: dict[str, Figure] = {"": batch_size, "gib": gib}
    if batch_size is None or gib is None:
        return Cell(MISSING, batch_size, figures=figures)
    text = f"{format_figure(batch_size, '.0f')} in {gib:g} GiB"
    return Cell(text, batch_size, figures=figures)


def _serving_columns(comparison: Comparison) -> Iterator[Column]:
    """What the trained model costs afterwards."""
    for key, title, make_cell in SERVING_COLUMNS:
        yield _make_column(comparison, key, title, make_cell)


def _labelled_columns(comparison: Comparison) -> Iterator[Column]:
    """What a method implies, where rows differ in it."""
    for label in LABELS:
        if label.differs(comparison.rows):
            cells = [text_cell(label.of_row(row)) for row in comparison.rows]
            yield Column(label.key, label.title, cells, numeric=label.key == TOKENS_SEEN)


# ---------------------------------------------------------------- cells of one column
def _parameters_cell(key: str, row: Row) -> Cell:
    """A number of parameters, and its share of all."""
    count = as_number(row.first_value(f"parameters.{key}"))
    total = as_number(row.first_value("parameters.total"))
    if count is None:
        return Cell(MISSING, figures={"": None})
    text = format_count(count)
    percent = 100 * count / total if total else math.inf
    if math.isfinite(percent):
        text += f" ({format_percent(percent)})"
    figure = int(count) if abs(count) < LARGEST_COUNT else count
    return Cell(text, count, figures={"": figure})


def _rate_cell(row: Row) -> Cell:
    """The rate of the setting, where it comes from, and whether it lies on the edge of what was tried."""
    if row.rate is None:
        return Cell(MISSING, figures={"": None, "edge": None, "source": ""})
    edge = bool(row.tuning.get("edge"))
    text = format_rate(row.rate)
    if edge:
        text += " (edge)"
    if row.tuned_otherwise:
        text += " (tuned otherwise)"
    if row.tuned_rate is not None:
        text += " (not the tuned one)"
    if row.has_default_rate:
        text += " (default)"
    source = cut_name(str(row.first_value("lr_source") or ""))
    return Cell(text, row.rate, figures={"": row.rate, "edge": edge, "source": source})


def _seeds_cell(row: Row) -> Cell:
    """How many seeds finished, of how many."""
    if not row.runs:
        return Cell(MISSING, figures={"finished": 0, "planned": 0})
    finished = len(row.finished)
    figures: dict[str, Figure] = {"finished": finished, "planned": row.planned}
    return Cell(f"{finished} of {row.planned}", finished, figures=figures)


# ---------------------------------------------------------------- tuning
def _tuning_columns(comparison: Comparison) -> Iterator[Column]:
    yield _make_column(comparison, "lr_space", "Rates tried", rates_cell, numeric=False)
    yield _make_column(comparison, "tuning", "Tuning cost", tuning_cost_cell, numeric=False)
