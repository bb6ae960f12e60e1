"""Labels: what a method implies and a reader must know; columns where rows differ in it, else in the caption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tuneoff.record import COLUMNS
from tuneoff.record.judgement import list_row_losses
from tuneoff.report.cells import format_count
from tuneoff.report.rows import Row
from tuneoff.report.text import cut_name

TOKENS_SEEN = "tokens_seen"


@dataclass(frozen=True)
class Label:
    """One thing that a method implies: its column's key and title, and the text of a row."""

    key: str
    title: str
    of_row: Callable[[Row], str]

    def differs(self, rows: Sequence[Row]) -> bool:
        """Return whether rows differ in it; in tokens seen, at the same seed."""
        if self.key == TOKENS_SEEN:
            return _tokens_differ(rows)
        texts = {self.of_row(row) for row in rows if row.runs}
        return len(texts) > 1


def _tokens_differ(rows: Sequence[Row]) -> bool:
    by_seed: dict[int, set[float]] = {}
    for row in rows:
        for seed, tokens in row.values_by_seed("throughput.tokens_seen").items():
            by_seed.setdefault(seed, set()).add(tokens)
    return any(len(tokens) > 1 for tokens in by_seed.values())


def _precision(row: Row) -> str:
    """The type of the weights, and of autocast where it is on."""
    dtype = row.first_value("provenance.precision.dtype")
    mixed = row.first_value("provenance.precision.mixed_precision")
    text = str(dtype or "")
    trained = row.first_value("provenance.precision.trainable_dtype")
    if trained not in (None, dtype):
        text += f", trained in {trained}"
    if mixed not in (None, "no"):
        text += f", {mixed} autocast"
    return cut_name(text)


def _tokens_seen(row: Row) -> str:
    tokens = row.estimate("throughput.tokens_seen")
    return format_count(tokens.mean) if tokens else ""


def _config_value(key: str, row: Row) -> str:
    value = row.setting.get(key)
    return "none" if value is None else cut_name(str(value))


def _lost_rows(row: Row) -> str:
    """What max_length took of the training examples."""
    data = row.first_value("provenance.data")
    for losses in list_row_losses(data if isinstance(data, dict) else {}):
        if losses.split == "train":
            return losses.describe()
    return ""


CONFIG_LABELS = [
    Label(key, heading, partial(_config_value, key)) for key, heading in COLUMNS.items()
]
LABELS = [
    Label("precision", "Precision", _precision),
    Label("lost_rows", "Training examples", _lost_rows),
    *CONFIG_LABELS,
    Label(TOKENS_SEEN, "Tokens seen", _tokens_seen),
]
