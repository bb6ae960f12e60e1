"""Making rows: runs of one method and setting together, one a seed, with their prediction and their name."""

from collections.abc import Sequence
from datetime import UTC, datetime

from tuneoff.record import FAMILIES, NOT_PREDICTED
from tuneoff.report.comparability import canonical_json
from tuneoff.report.records import Run, as_number
from tuneoff.report.rows import LEARNING_RATE, MANY_ROWS, Row, show_setting, varied_keys
from tuneoff.report.text import cut_name

MOST_LABEL_CHARACTERS = 240


def make_rows(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """Return a row for each method and setting, in order, and what must be said of how they were made."""
    by_setting: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if not run.predicted:
            key = (run.method, canonical_json(run.setting))
            by_setting.setdefault(key, []).append(run)
    rows = []
    repeated = 0
    for members in by_setting.values():
        chosen = _choose_one_a_seed(members)
        rows.append(Row(members[0].method, members[0].setting, chosen))
        repeated += len(members) - len(chosen)
    notes = []
    if repeated:
        notes.append(
            f"{repeated} run(s) repeat a setting and seed: the newest finished one counts."
        )
    for run in runs:
        if run.predicted:
            _place_prediction(run, rows)
    _name_rows(rows)
    rows.sort(key=_row_order)
    if len(rows) >= MANY_ROWS:
        rows.sort(key=_family_order)
    return rows, notes


def _choose_one_a_seed(runs: list[Run]) -> list[Run]:
    """The finished run of each seed, or the newest: the same seed twice is not two seeds."""

    def order(run: Run) -> tuple:
        return (run.finished, _read_time(run.get("finished_at")), run.folder)

    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=order):
        chosen[run.seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def _read_time(text: object) -> float:
    """Seconds since 1970 of a time as a record writes it; without a zone in UTC, and of what is no time before all."""
    try:
        time = datetime.fromisoformat(str(text))
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return time.timestamp()
    except (ValueError, OverflowError):
        return float("-inf")


def _place_prediction(prediction: Run, rows: list[Row]) -> None:
    """Put a prediction into the rows of its setting, or into a new row where there is none."""
    matching = [row for row in rows if _predicts(prediction, row)]
    for row in matching:
        if row.predicted_run is None:
            row.predicted_run = prediction
    if not matching:
        rows.append(Row(prediction.method, prediction.setting, [], prediction))


def _predicts(prediction: Run, row: Row) -> bool:
    """Whether a prediction is one of this row: they agree in every key that both have and memory depends on."""
    if prediction.method != row.method:
        return False
    common = prediction.setting.keys() & row.setting.keys()
    return all(
        prediction.setting[key] == row.setting[key] for key in common.difference(NOT_PREDICTED)
    )


def _family_order(row: Row) -> int:
    """What groups many rows by family, in the order of the charts' legend."""
    return list(FAMILIES).index(row.family)


def _row_order(row: Row) -> tuple:
    """What sorts rows: by method, then by the values of the setting, numbers as numbers."""
    values = [_natural_order(row.setting.get(key)) for key in sorted(row.setting)]
    return (row.method, values, row.name)


def _natural_order(value: object) -> tuple[int, float, str]:
    number = as_number(value)
    if number is not None:
        return (0, number, "")
    return (1, 0.0, str(value))


def _name_rows(rows: Sequence[Row]) -> None:
    """Name a row by the settings in which the rows of its method differ."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    for method, siblings in by_method.items():
        keys = varied_keys(siblings)
        for row in siblings:
            words = {key: f"{key}={show_setting(row, key)}" for key in keys}
            rate = words.pop(LEARNING_RATE, "")
            row.label = cut_name(", ".join(words.values()), MOST_LABEL_CHARACTERS)
            row.name = " ".join(filter(None, [method, row.label, rate]))
