"""The table of a comparison: its columns, and its cells as text with no digit that means nothing."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tuneoff.record import COLUMNS
from tuneoff.report import stats
from tuneoff.report.compare import DERIVED, LABELS, Comparison, Quality
from tuneoff.report.records import as_number
from tuneoff.report.rows import Row

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """What a reader sees, what it sorts by, and the figures behind it for CSV (column suffix: value)."""

    text: str
    value: float | str | None = None
    bold: bool = False
    figures: dict[str, float | int | str | None] = field(default_factory=dict)


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


def columns(made: Comparison) -> list[Column]:
    """All columns of a comparison that say something, in reading order."""
    return [
        column
        for column in [*_quality_columns(made), *_cost_columns(made)]
        if not column.empty or column.key == "setting"
    ]


def _column(
    made: Comparison, key: str, title: str, cell: Callable[[Row], Cell], numeric: bool = True
) -> Column:
    return Column(key, title, [cell(row) for row in made.rows], numeric)


def _quality_columns(made: Comparison) -> Iterator[Column]:
    yield _column(made, "method", "Method", lambda row: text_cell(row.method), numeric=False)
    if any(row.label for row in made.rows):
        yield _column(made, "setting", "Setting", lambda row: text_cell(row.label), numeric=False)
    for key in ("trainable", "ever_trained"):
        title = key.replace("_", " ").capitalize()
        yield _column(made, key, title, partial(_parameters, key))
    yield _column(made, "lr", "Learning rate", _rate)
    if made.qualities and made.qualities[0].path == "loss.test":
        yield _column(
            made,
            "validation_loss",
            LABELS["final"],
            lambda row: spread_cell(row.estimate("loss.final")),
        )
    for index, quality in enumerate(made.qualities):
        yield from _quality_pair(made, index, quality)
    yield _column(
        made, DERIVED, "Perplexity", lambda row: spread_cell(row.estimate(f"metrics.{DERIVED}"))
    )
    yield _column(made, "seeds", "Seeds", _seeds)
    if any(len(row.finished) < len(row.runs) or not row.runs for row in made.rows):
        yield _column(made, "outcome", "Outcome", lambda row: text_cell(row.outcome), numeric=False)


def _quality_pair(made: Comparison, index: int, quality: Quality) -> Iterator[Column]:
    """The measure, and its difference to the baseline."""
    key, verdict = quality.key, made.verdicts[index]
    arrow = "" if quality.path.startswith("loss.") else (" ↓" if quality.lower_is_better else " ↑")
    values = [
        spread_cell(
            row.estimate(quality.path), bold=bool(bold), examples=made.examples(quality, row)
        )
        for row, bold in zip(made.rows, verdict.bold, strict=True)
    ]
    yield Column(key, quality.heading + arrow, values)
    if made.baseline is None:
        return
    cells, base = [], made.rows[made.baseline].estimate(quality.path)
    for row, p in zip(made.rows, verdict.p, strict=True):
        if row is made.rows[made.baseline]:
            cells.append(Cell("baseline", 0.0))
            continue
        cell = spread_cell(
            made.difference(quality, row), of=base, examples=made.examples(quality, row, True)
        )
        mark = " *" if p < stats.ALPHA else ""
        adjusted = None if math.isnan(p) else float(p)
        cells.append(
            Cell(cell.text + mark, cell.value, False, {**cell.figures, "holm_p": adjusted})
        )
    yield Column(f"{key}_difference", f"Δ {quality.title[0].lower()}{quality.title[1:]}", cells)


def _cost_columns(made: Comparison) -> Iterator[Column]:
    yield _column(
        made,
        "tokens_per_second",
        "Tokens/s",
        lambda row: spread_cell(row.estimate("throughput.tokens_per_second")),
    )
    yield _column(
        made,
        "train_seconds",
        "Training (s)",
        lambda row: spread_cell(row.estimate("throughput.train_seconds")),
    )
    for phase in made.phases:
        yield _column(made, f"peak_{phase}_gib", f"Peak {phase} (GiB)", partial(_phase, phase))
    yield _column(made, "predicted_peak_gib", "Predicted peak train (GiB)", _predicted)
    yield _column(made, "needed_gib", "Card needed (GiB)", _needed)
    yield _column(made, "largest_batch", "Largest batch", _largest_batch)
    for key, title, value in LABELLED:
        if differs(made, key, value):
            cells = [text_cell(value(row)) for row in made.rows]
            yield Column(key, title, cells, numeric=key == "tokens_seen")
    yield _column(made, "lr_space", "Rates tried", _space, numeric=False)
    yield _column(made, "tuning", "Tuning cost", _tuning, numeric=False)


# ---------------------------------------------------------------- what a method implies
def precision(row: Row) -> str:
    """Type of the weights, and of autocast where it is on."""
    dtype, mixed = (
        row.first("provenance.precision.dtype"),
        row.first("provenance.precision.mixed_precision"),
    )
    return str(dtype or "") + (f", {mixed} autocast" if mixed not in (None, "no") else "")


def _tokens_seen(row: Row) -> str:
    seen = row.estimate("throughput.tokens_seen")
    return short(seen.mean) if seen else ""


def _config(key: str) -> Callable[[Row], str]:
    return lambda row: str(row.setting.get(key) if row.setting.get(key) is not None else "none")


# Shown as columns where they differ, and in the caption where they do not.
LABELLED: list[tuple[str, str, Callable[[Row], str]]] = [
    ("precision", "Precision", precision),
    *((key, heading, _config(key)) for key, heading in COLUMNS.items()),
    ("tokens_seen", "Tokens seen", _tokens_seen),
]


def differs(made: Comparison, key: str, value: Callable[[Row], str]) -> bool:
    """Whether rows differ in what a method implies; for tokens seen, at the same seed."""
    if key != "tokens_seen":
        return len({value(row) for row in made.rows if row.runs}) > 1
    seen: dict[int, set[float]] = {}
    for row in made.rows:
        for seed, tokens in row.values("throughput.tokens_seen").items():
            seen.setdefault(seed, set()).add(tokens)
    return any(len(tokens) > 1 for tokens in seen.values())


# ---------------------------------------------------------------- cells
def text_cell(text: str) -> Cell:
    """A cell that sorts by its text."""
    return Cell(text or MISSING, text or None, figures={"": text})


def spread_cell(
    found: stats.Estimate | None,
    bold: bool = False,
    of: stats.Estimate | None = None,
    examples: np.ndarray | None = None,
) -> Cell:
    """`mean ± half [low, high]`, with the digits that the intervals leave standing.

    Args:
        of: for a difference, the value that it is taken from: without an interval it has the decimals of that.
        examples: scores of test examples, for the interval over these.
    """
    if found is None:
        return Cell(MISSING, figures={"": None, "interval": None, "n": 0})
    sign = "+" if of else ""
    figures: dict[str, float | int | str | None] = {
        "": found.mean,
        "interval": found.half,
        "n": found.n,
    }
    ends = None if examples is None else stats.over_examples(examples)
    half = found.half or (ends and (ends[1] - ends[0]) / 2)
    places = decimals(of.mean if of and not half else found.mean, half)
    text = f"{found.mean:{sign},.{places}f}"
    if found.half is not None:
        text += f" ± {found.half:,.{places}f}"
    if ends:
        text += f" [{ends[0]:{sign}.{places}f}, {ends[1]:{sign}.{places}f}]"
        figures |= {"examples_low": ends[0], "examples_high": ends[1]}
    return Cell(text.replace("-", "−"), found.mean, bold, figures)


def decimals(mean: float, half: float | None) -> int:
    """Decimal places: two digits of the interval; without one, three decimals, or digits of what is large or tiny."""
    if half and half > 1e-9 * abs(mean):  # less is rounding: equal values
        return min(6, max(0, 1 - math.floor(math.log10(half))))
    if not mean or 0.01 <= abs(mean) < 10:
        return 3 if mean else 1
    return min(6, max(0, 2 - math.floor(math.log10(abs(mean)))))


def short(count: float) -> str:
    """A count with three digits: 234 k, 5.80 M, 8.03 B."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size * 0.9995:
            return f"{count / size:#.3g}".rstrip(".") + unit
    return f"{count:.0f}"


def _parameters(key: str, row: Row) -> Cell:
    count, total = (
        as_number(row.first(f"parameters.{key}")),
        as_number(row.first("parameters.total")),
    )
    if count is None:
        return Cell(MISSING, figures={"": None})
    share = 100 * count / total if total else None
    shown = "" if share is None else f" ({share:.0f} %)" if share >= 10 else f" ({share:.2g} %)"
    return Cell(short(count) + shown, count, figures={"": int(count)})


def scientific(rate: float) -> str:
    """A rate with three digits at most: 1e-3, 3.16e-4."""
    digits, _, power = f"{rate:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _rate(row: Row) -> Cell:
    """The rate of the setting, and whether it lies on the edge of what was tried."""
    if row.rate is None:
        return Cell(MISSING, figures={"": None, "edge": None})
    tuning = row.first("tuning")
    edge = bool(tuning.get("edge")) if isinstance(tuning, dict) else False
    return Cell(
        scientific(row.rate) + (" (edge)" if edge else ""),
        row.rate,
        figures={"": row.rate, "edge": edge},
    )


def _space(row: Row) -> Cell:
    """How many rates the tuning tried, and between which."""
    tuning = row.first("tuning")
    space = tuning.get("space") if isinstance(tuning, dict) else None
    listed = space.get("lr") if isinstance(space, dict) else None
    rates = (
        [rate for item in listed if (rate := as_number(item)) is not None]
        if isinstance(listed, list)
        else []
    )
    text = (
        f"{len(rates)} in [{scientific(min(rates))}, {scientific(max(rates))}]"
        if rates
        else MISSING
    )
    return Cell(text, len(rates) or None, figures={"": " ".join(f"{rate:g}" for rate in rates)})


def _seeds(row: Row) -> Cell:
    done = len(row.finished)
    if not row.runs:
        return Cell(MISSING, figures={"finished": 0, "planned": 0})
    return Cell(
        f"{done} of {row.planned}", done, figures={"finished": done, "planned": row.planned}
    )


def _phase(phase: str, row: Row) -> Cell:
    return _gib(row.peaks.get(phase))


def _gib(peak: float | None) -> Cell:
    return Cell(f"{peak:.2f}" if peak is not None else MISSING, peak, figures={"": peak})


def _predicted(row: Row) -> Cell:
    peaks = row.foreseen.peaks if row.foreseen else {}
    return _gib(peaks.get("train", max(peaks.values(), default=None)))


def _needed(row: Row) -> Cell:
    """What a card must have, CUDA's own share included."""
    return _gib(row.foreseen.number("needed_gib") if row.foreseen else None)


def _largest_batch(row: Row) -> Cell:
    """The largest batch that fits a card, as foreseen."""
    rows, gib = (
        row.foreseen.number(f"largest_batch.{key}") if row.foreseen else None
        for key in ("batch_size", "gib")
    )
    shown = MISSING if rows is None or gib is None else f"{rows:.0f} in {gib:g} GiB"
    return Cell(shown, rows, figures={"": rows, "gib": gib})


def _tuning(row: Row) -> Cell:
    tuning = row.first("tuning")
    cost = tuning.get("method_cost") if isinstance(tuning, dict) else None
    cost = cost if isinstance(cost, dict) else {}
    figures = {key: as_number(cost.get(key)) for key in ("jobs", "tokens", "seconds")}
    words = [
        f"{figures['jobs']:.0f} jobs" if figures["jobs"] else "",
        f"{short(figures['tokens'])} tokens" if figures["tokens"] else "",
        f"{figures['seconds']:,.0f} s" if figures["seconds"] else "",
    ]
    text = ", ".join(word for word in words if word)
    return Cell(text or MISSING, figures["seconds"], figures=dict(figures))
