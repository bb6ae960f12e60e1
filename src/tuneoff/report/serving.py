"""What a trained model costs afterwards: what is saved, whether it merges, and how fast it answers."""

from collections.abc import Callable
from typing import NamedTuple

from tuneoff.report.cells import MISSING, Cell, estimate_cell, format_rate
from tuneoff.report.records import as_number
from tuneoff.report.rows import Row

MIB = 2**20
SAVED_BYTES = "facts.saved_bytes"
DECODING = "serving.decode_tokens_per_second"


class ServingColumn(NamedTuple):
    """A column's key, its title, and its cell of a row."""

    key: str
    title: str
    make_cell: Callable[[Row], Cell]


def saved_mib(row: Row) -> float | None:
    """Return the size of what a row's runs save, or would: an adapter, with what it brings along, or a model."""
    saved = as_number(row.first_value(SAVED_BYTES))
    return None if saved is None else saved / MIB


def _saved_cell(row: Row) -> Cell:
    size = saved_mib(row)
    if size is None:
        return Cell(MISSING, figures={"": None})
    decimals = 0 if size >= 100 else 2
    return Cell(f"{size:,.{decimals}f}", size, figures={"": size})


def _merges_cell(row: Row) -> Cell:
    """Whether the adapter merges, and by how much that moves the logits."""
    merges = row.first_value("serving.merges")
    difference = as_number(row.first_value("serving.merged.logits_difference"))
    if not isinstance(merges, bool):
        return Cell(MISSING, figures={"": "", "logits_difference": None})
    answer = "yes" if merges else "no"
    text = answer
    if difference is not None:
        text += f" (logits ±{format_rate(difference)})"
    figures = {"": answer, "logits_difference": difference}
    return Cell(text, text, figures=figures)


def _plain_lora_cell(row: Row) -> Cell:
    """The rank of the plain LoRA that is exactly the trained model; `no` where an adapter has none."""
    rank = as_number(row.first_value("serving.plain_lora_rank"))
    if rank is None:
        text = MISSING if row.first_value("serving.merges") is None else "no"
        return Cell(text, None, figures={"": None})
    return Cell(f"rank {rank:.0f}", rank, figures={"": int(rank)})


def _estimate_of(path: str) -> Callable[[Row], Cell]:
    return lambda row: estimate_cell(row.estimate(path))


SERVING_COLUMNS = (
    ServingColumn("saved_mib", "Saved (MiB)", _saved_cell),
    ServingColumn("merges", "Merges", _merges_cell),
    ServingColumn("plain_lora_rank", "As plain LoRA", _plain_lora_cell),
    ServingColumn("prefill_seconds", "Prefill (s)", _estimate_of("serving.prefill_seconds")),
    ServingColumn(
        "merged_prefill_seconds",
        "Prefill merged (s)",
        _estimate_of("serving.merged.prefill_seconds"),
    ),
    ServingColumn("decode_tokens_per_second", "Decoding (tokens/s)", _estimate_of(DECODING)),
    ServingColumn(
        "merged_decode_tokens_per_second",
        "Decoding merged (tokens/s)",
        _estimate_of("serving.merged.decode_tokens_per_second"),
    ),
)
