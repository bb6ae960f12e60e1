"""Notes below a table: few seeds, other code, other batches."""

from collections.abc import Iterator, Sequence

from tuneoff.report import stats
from tuneoff.report.cells import format_rate
from tuneoff.report.comparability import FIELDS, make_fingerprint
from tuneoff.report.records import LARGEST_DRAWN, Run, as_number
from tuneoff.report.rows import Row
from tuneoff.report.text import cut_name, shorten_list

CODE_FIELDS = {
    "git commit": "provenance.git.commit",
    "uncommitted changes": "provenance.git.dirty",
}
BATCH_ORDER = "provenance.batch_order_hash"


def make_notes(rows: Sequence[Row], baseline: Row | None) -> list[str]:
    """Return what a reader must know about the rows of a comparison."""
    notes = [*_note_few_seeds(rows), *_note_other_code(rows), *_note_tuned_otherwise(rows)]
    notes += [*_note_other_rates(rows), *_note_unknown_fields(rows)]
    notes += _note_points_not_drawn(rows)
    if baseline is not None:
        notes += _note_other_batches(rows, baseline)
    return notes


def _note_points_not_drawn(rows: Sequence[Row]) -> Iterator[str]:
    """Say whose learning curves have gaps."""
    parts = []
    for row in rows:
        points = sum(run.curve.not_drawn for run in row.runs if run.curve is not None)
        if points:
            parts.append(f"{cut_name(row.name)} ({points})")
    if parts:
        yield (
            f"Points of learning curves that are not drawn, since they are no numbers or {LARGEST_DRAWN:.0e} "
            f"and more: {shorten_list(parts)}."
        )


def _note_few_seeds(rows: Sequence[Row]) -> Iterator[str]:
    finished = [row for row in rows if row.finished]
    few = [row.name for row in finished if len(row.finished) < stats.LEAST_SEEDS]
    if not few:
        return
    names = "any row" if len(few) == len(finished) > 1 else shorten_list(few)
    yield (
        f"No interval for {names}: fewer than {stats.LEAST_SEEDS} seeds have finished, and one or "
        "two runs say nothing about the spread."
    )


def _note_other_code(rows: Sequence[Row]) -> Iterator[str]:
    for name, path in CODE_FIELDS.items():
        values = set()
        for row in rows:
            for run in row.runs:
                if run.get(path) is not None:
                    values.add(str(run.get(path))[:12])
        if len(values) > 1:
            listing = ", ".join(sorted(values))
            yield f"The runs differ in {name}: {listing}. Labelled, not split."


def _note_tuned_otherwise(rows: Sequence[Row]) -> Iterator[str]:
    """Say which rows took settings that were tuned under others, and which those are."""
    names_by_setting: dict[str, list[str]] = {}
    for row in rows:
        parts = []
        for key, values in row.tuned_otherwise.items():
            there_and_here = ", here ".join(cut_name(str(value)) for value in values)
            parts.append(f"{cut_name(str(key))} {there_and_here}")
        if parts:
            names_by_setting.setdefault("; ".join(parts), []).append(row.name)
    for settings, names in names_by_setting.items():
        yield f"Tuned otherwise ({settings}): {shorten_list(names)}."


def _note_other_rates(rows: Sequence[Row]) -> Iterator[str]:
    """Say which rows did not take the rate that their tuning found."""
    parts = []
    for row in rows:
        if row.tuned_rate is not None:
            tuned = as_number(row.tuned_rate)
            shown = cut_name(str(row.tuned_rate)) if tuned is None else format_rate(tuned)
            parts.append(f"{row.name} (tuned: {shown})")
    if parts:
        yield f"Learning rates that are not the tuned ones: {shorten_list(parts)}."


def _note_unknown_fields(rows: Sequence[Row]) -> Iterator[str]:
    """Say whose finished runs do not tell what the guard compares: nothing contradicts them, and nothing says more."""
    names_by_fields: dict[str, list[str]] = {}
    for row in rows:
        unknown: dict[str, None] = {}
        for run in row.finished.values():
            fingerprint = make_fingerprint(run)
            unknown.update(dict.fromkeys(name for name in FIELDS if fingerprint[name] is None))
        if unknown:
            names_by_fields.setdefault(shorten_list(list(unknown)), []).append(row.name)
    for fields, names in names_by_fields.items():
        yield f"Not known to be comparable, since records do not say their {fields}: {shorten_list(names)}."


def _note_other_batches(rows: Sequence[Row], baseline: Row) -> Iterator[str]:
    others = []
    for row in rows:
        if any(_has_other_batches(run, baseline) for run in row.finished.values()):
            others.append(row.name)
    if others:
        listing = ", ".join(others)
        yield f"Other batches than the baseline's at the same seed: {listing}."


def _has_other_batches(run: Run, baseline: Row) -> bool:
    """Whether a run saw its data in another order than the baseline's run of the same seed; unknown is no other."""
    base = baseline.finished.get(run.seed)
    if base is None:
        return False
    order = run.get(BATCH_ORDER)
    base_order = base.get(BATCH_ORDER)
    return bool(order) and base_order is not None and base_order != order
