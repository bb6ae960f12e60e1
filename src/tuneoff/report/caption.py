"""What a reader must know to believe a table: what was run where, how it was judged, and what the figures are."""

from collections.abc import Iterator

from tuneoff.report import stats
from tuneoff.report.compare import Comparison
from tuneoff.report.records import as_number
from tuneoff.report.table import LABELLED, differs


def caption(made: Comparison) -> str:
    """What the figures are, how they were judged, and what all rows share."""
    rows = made.rows
    shared = [
        f"{title.lower()} {value(rows[0])}"
        for key, title, value in LABELLED
        if not differs(made, key, value)
        and key != "tokens_seen"
        and value(rows[0]) not in ("", "none")
    ]
    said = [
        _subject(made),
        _budget(made),
        f"The same for all rows: {', '.join(shared)}." if shared else "",
        *_judged(made),
        *_measured(made),
        *_foreseen(made),
        *made.notes,
    ]
    return " ".join(part for part in said if part)


def _judged(made: Comparison) -> Iterator[str]:
    """How the statistics were done, as far as the seeds allow any."""
    seeds = {len(row.finished) for row in made.rows if row.finished}
    enough = max(seeds, default=0) >= stats.LEAST_SEEDS
    if enough:
        yield f"Mean ± 95 % Student-t interval (no bootstrap) over {_range(seeds)} finished seeds."
    examples = {
        len(found)
        for quality in made.qualities
        for row in made.rows
        if (found := made.examples(quality, row)) is not None and found.min() < found.max()
    }
    if examples:
        yield (
            f"In brackets: 95 % percentile bootstrap over the {_range(examples)} examples that were scored, of the "
            "seeds' mean: what other examples would change, not other seeds."
        )
    if made.baseline is not None:
        name = made.rows[made.baseline].name
        yield f"Δ: difference to the baseline {name} ({made.baseline_reason}) at the same seed" + (
            "; its mean with the paired-t interval, * where it differs at Holm-adjusted p < 0.05 over all Δ of this "
            "table."
            if enough
            else "."
        )
    elif made.baseline_reason:
        yield f"{made.baseline_reason.capitalize()}."
    if any(verdict.bold.any() for verdict in made.verdicts):
        yield "Bold: the best, and all that cannot be told from it (paired t, Holm over all pairs)."
    elif enough and len(made.rows) > 1:
        yield "Nothing is bold: no row can be told from the best at Holm-adjusted p < 0.05."


def _measured(made: Comparison) -> Iterator[str]:
    """What memory and speed mean, and where they were measured."""
    runs = [run for row in made.rows for run in row.finished.values()]
    measures = sorted({str(run.get("memory.measure")) for run in runs if run.get("memory.measure")})
    before = max(
        (value for run in runs if (value := run.number("memory.baseline_gib")) is not None),
        default=None,
    )
    if measures:
        share = (
            f" (of resident memory up to {before:.2f} before the model is loaded)" if before else ""
        )
        yield (
            f"Peak memory: the highest over seeds, {' or '.join(measures)}, GiB of 2³⁰ bytes{share}; "
            "tokens/s: non-padding tokens of train steps alone."
        )


def _foreseen(made: Comparison) -> Iterator[str]:
    """What a predicted figure is the figure of."""
    if any(row.foreseen for row in made.rows):
        yield (
            "Predicted: tensors alone, for a batch whose rows have max_length tokens; card needed: with CUDA's "
            "rounding and context."
        )


def _subject(made: Comparison) -> str:
    """The model, the data and the machine, which the guard has made one."""
    model, data, hardware, threads = (
        next((found for row in made.rows if (found := row.first(path)) is not None), None)
        for path in (
            "config.model.name",
            "config.data.name",
            "provenance.hardware",
            "provenance.threads",
        )
    )
    said = f"Model {model}, data {data}" if model and data else ""
    if isinstance(hardware, dict):
        said += f", on {hardware.get('gpu') or hardware.get('cpu')}, {hardware.get('cores')} cores"
        said += f", threads a job: {threads}" if threads else ""
    return said and f"{said}."


def _budget(made: Comparison) -> str:
    kind, value = (
        next((found for row in made.rows if (found := row.first(path)) is not None), None)
        for path in ("budget.kind", "budget.value")
    )
    number = as_number(value)
    return f"Budget: {kind} = {number:,g}." if kind and number is not None else ""


def _range(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
