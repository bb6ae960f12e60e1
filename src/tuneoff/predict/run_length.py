"""Run length: how many steps the settings ask for and how full they are, where the data are at hand."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from tuneoff import data
from tuneoff.config import ConfigError, Experiment, is_shipped, resolve_folder
from tuneoff.models.tokenizer import load_tokenizer
from tuneoff.predict.batches import TypicalRows

LOOKED_THROUGH = 200  # steps


@dataclass(frozen=True)
class RunLength:
    """How long a run trains, and on what rows.

    Attributes:
        steps: of the optimizer; None where only the data or the machine show it.
        seconds: of training, where these are the budget.
        rows: as the run sees them in the mean.
        tokens_a_step: over all processes, without padding.
        basis: what the rows stand on, in words.
    """

    steps: float | None
    seconds: float | None
    rows: TypicalRows
    tokens_a_step: float
    basis: str


def find_run_length(experiment: Experiment) -> RunLength:
    """The length of a run by its budget, and by its data where they are on this machine; nothing is fetched."""
    kind, value = experiment.budget
    seconds = value if kind == "max_seconds" else None
    order = _order_of_data(experiment) if _is_at_hand(experiment) else None
    if order is None:
        return _assume_full_rows(experiment, seconds)
    steps = order.count_steps(kind, value)
    looked_through = int(min(steps, LOOKED_THROUGH))
    seen = _look_through(order, looked_through, experiment.batch_size)
    length = math.ceil(seen.positions / seen.rows)
    labels = math.ceil(seen.labels / seen.rows)
    return RunLength(
        steps=None if seconds is not None else steps,
        seconds=seconds,
        rows=TypicalRows(length, labels, experiment.packing),
        tokens_a_step=seen.tokens / looked_through,
        basis=f"as long as those of the first {looked_through} steps of {experiment.data.name}",
    )


def _assume_full_rows(experiment: Experiment, seconds: float | None) -> RunLength:
    """Every row as long as it may be, and every token trained."""
    kind, value = experiment.budget
    length = experiment.max_length
    rows = experiment.batch_size * experiment.gradient_accumulation_steps
    tokens_a_step = rows * experiment.num_processes * length
    steps = {"max_steps": value, "max_tokens": value / tokens_a_step}.get(kind)
    full = TypicalRows(length, length - 1, experiment.packing)
    basis = "all as long as max_length, and all of it trained: the data are not at hand"
    return RunLength(steps, seconds, full, tokens_a_step, basis)


def _is_at_hand(experiment: Experiment) -> bool:
    """Whether data and tokenizer are on this machine."""
    model = experiment.model
    places = [settings.path for settings in experiment.data.members.values()]
    places += [place for place in (model.tokenizer or model.path,) if place]
    return all(is_shipped(place) or resolve_folder(place).exists() for place in places)


def _order_of_data(experiment: Experiment) -> data.StepOrder | None:
    """Which rows a step sees; None where the set cannot be read for this model, which training says better."""
    try:
        tokenizer = load_tokenizer(experiment.model)
        dataset = data.load_dataset(experiment.data, tokenizer, experiment.max_length)
    except ConfigError:
        return None
    return data.make_order(experiment, dataset.splits["train"], experiment.num_processes)


class Seen(NamedTuple):
    """What a stretch of steps holds, over all processes."""

    rows: int
    positions: int  # padding included
    tokens: int
    labels: int


def _look_through(order: data.StepOrder, steps: int, batch_size: int) -> Seen:
    """What the first steps hold."""
    count = 0
    positions = 0
    tokens = 0
    labels = 0
    for step in range(steps):
        rows = order.step_rows(step)
        count += len(rows)
        tokens += sum(len(row.ids) for row in rows)
        labels += sum(row.labels for row in rows)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            positions += len(batch) * len(batch[0].ids)  # the longest row comes first
    return Seen(count, positions, tokens, labels)
