"""Measures that decide: the loss and the task metrics of a comparison, and which way each is better."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tuneoff.record import COLUMNS, flatten
from tuneoff.report.records import Run, as_number
from tuneoff.report.rows import Row
from tuneoff.report.serving import SERVING_COLUMNS

DERIVED = "perplexity"  # the loss in other units: shown, but not tested a second time
# Words in the names of metrics of which less is better, where a record does not state it.
LOWER_IS_BETTER = frozenset(
    (
        "loss",
        "perplexity",
        "forgetting",
        "error",
        "errors",
        "wer",
        "cer",
        "ter",
        "mse",
        "rmse",
        "mae",
        "brier",
        "bits",
        "toxicity",
    )
)
BY_SET = "_by_set"  # of several sets a metric's name comes first, and that of a set behind it
LOSS_TITLES = {"test": "Test loss", "final": "Validation loss"}
# Keys of columns that are there whatever the metrics are called.
OTHER_COLUMNS = frozenset(
    (
        "comparison",
        "method",
        "setting",
        "trainable",
        "ever_trained",
        "lr",
        "lr_space",
        "validation_loss",
        "seeds",
        "outcome",
        "tokens_per_second",
        "train_seconds",
        "predicted_peak_gib",
        "needed_gib",
        "largest_batch",
        "precision",
        "tokens_seen",
        "tuning",
        *(column.key for column in SERVING_COLUMNS),
        *COLUMNS,
    )
)


@dataclass
class Quality:
    """A measure that decides: the loss, or a task metric."""

    path: str
    title: str
    lower_is_better: bool

    @property
    def key(self) -> str:
        """Its column's key; of a metric that is named like another column, one of its own."""
        key = self.metric.replace("loss.", "loss_")
        return f"metric_{key}" if key in OTHER_COLUMNS else key

    @property
    def metric(self) -> str:
        """Its name in the record."""
        return self.path.removeprefix("metrics.")

    @property
    def heading(self) -> str:
        """The title as it begins a line."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def unit(self) -> str:
        """What follows the title on an axis."""
        return " (nats per token)" if self.path.startswith("loss.") else ""


def find_qualities(rows: Sequence[Row]) -> list[Quality]:
    """The test loss where there is one (rows without are not ranked), else the validation loss; then task metrics."""
    runs = [run for row in rows for run in row.finished.values()]
    if not runs:
        return []
    tested = any(run.number("loss.test") is not None for run in runs)
    split = "test" if tested else "final"
    qualities = [Quality(f"loss.{split}", LOSS_TITLES[split], lower_is_better=True)]
    for key in _find_metrics(runs):
        path = "metrics." + key.replace("/", ".")
        title = key.replace("_", " ").replace("/", ", ")
        qualities.append(Quality(path, title, is_lower_better(runs, key)))
    return qualities


def is_lower_better(runs: Sequence[Run], key: str) -> bool:
    """Return whether less of a metric is better: as a record states it, else as the words of its own name say.

    The name of a benchmark's task, before the slash, says nothing: a task may be about errors.
    """
    path = key.replace("/", ".")
    for run in runs:
        stated = run.get(f"metric_facts.{path}.higher_is_better")
        if isinstance(stated, bool):
            return not stated
    first, _, last = key.partition("/")
    name = first if first.endswith(BY_SET) else last or first
    words = re.split("[^a-z]+", name.lower())
    return not LOWER_IS_BETTER.isdisjoint(words)


def _find_metrics(runs: Sequence[Run]) -> list[str]:
    """The task metrics of which any run has a figure, such as `exact_match`, sorted."""
    metrics = set()
    for run in runs:
        for key, value in flatten(run.section("metrics")).items():
            if as_number(value) is not None and "." not in key:
                metrics.add(key)
    return sorted(metrics - {DERIVED})
