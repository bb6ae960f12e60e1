"""Verdicts: what sets for KTO say of each answer, good or bad; a bad one is not to be learned."""

from collections.abc import Collection, Iterable

from tuneoff.data.conversations import refuse_row
from tuneoff.data.source_rows import SourceRow

VERDICT_COLUMNS = ("label", "kto_tag")
# Words say it themselves. A number may be a class of another kind, unless its column has no others than these.
WORDS = ("true", "false")
NUMBERS = {"1": "true", "1.0": "true", "0": "false", "0.0": "false"}
ADVICE = "data.on_bad_row=skip leaves such rows out, and a column that means something else needs another name"


def find_verdict_columns(
    rows: Iterable[SourceRow], read_columns: Collection[str]
) -> tuple[str, ...]:
    """Return the columns in which verdicts are all that there is, whether as words or as numbers.

    Args:
        rows: as many as the columns are judged by.
        read_columns: what the format reads; none of them is a verdict.
    """
    values_by_column: dict[str, set[str]] = {}
    for name in VERDICT_COLUMNS:
        if name not in read_columns:
            values_by_column[name] = set()
    for row in rows:
        for name, values in values_by_column.items():
            if row.values.get(name) is not None:
                values.add(normalise_verdict(row.values[name]))
    return tuple(name for name, values in values_by_column.items() if values.issubset(WORDS))


def normalise(value: object) -> str:
    """Return a value as a text by which true, True and "true " are the same."""
    return str(value).strip().lower()


def normalise_verdict(value: object) -> str:
    """Return a verdict as true or false, whether it is a word or a number; anything else as its text."""
    word = normalise(value)
    return NUMBERS.get(word, word)


def refuse_bad_answer(
    row: SourceRow, read_columns: Collection[str], verdict_columns: Collection[str]
) -> None:
    """Refuse a row whose answer is marked as one that is not to be learned.

    Args:
        row: the row.
        read_columns: what the format reads; none of them is a verdict.
        verdict_columns: those whose numbers are verdicts too.

    Raises:
        ConfigError: with the mark.
    """
    for name in VERDICT_COLUMNS:
        value = row.values.get(name)
        if value is None or name in read_columns:
            continue
        is_verdict = name in verdict_columns or normalise(value) in WORDS
        if is_verdict and normalise_verdict(value) == "false":
            message = f"{name} is {normalise(value)}, which marks its answer as one that is not to be learned"
            raise refuse_row(row, f"{message}; {ADVICE}")
