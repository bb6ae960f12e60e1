"""Task metrics: what a run is judged by beside its loss, as the record has it."""

import math
from typing import Any

from tuneoff.config import Experiment
from tuneoff.training.benchmarks import Benchmarks
from tuneoff.training.evaluation import Evaluation
from tuneoff.training.exact_match import ExactMatch

LARGEST_EXPONENT = 700  # a float ends at e^709


def judged_split(experiment: Experiment) -> str:
    """The split that a run is judged on."""
    return "test" if experiment.test else "validation"


def calculate_perplexity(loss: float) -> float:
    """Perplexity of a loss in nats per token; infinite where no number holds it."""
    return math.exp(loss) if loss < LARGEST_EXPONENT else math.inf


class TaskMetrics:
    """Perplexity, exact match and forgetting, as far as they were measured."""

    def __init__(
        self,
        experiment: Experiment,
        evaluation: Evaluation,
        exact_match: ExactMatch | None,
        benchmarks: Benchmarks,
    ):
        self.experiment = experiment
        self.evaluation = evaluation
        self.exact_match = exact_match
        self.benchmarks = benchmarks

    def values(self) -> dict[str, Any]:
        """The record's `metrics`; each is a column of the report, `KEY_by_set` one for each set."""
        values: dict[str, Any] = {}
        evaluation = self.evaluation
        loss = evaluation.losses[self.stage]
        if loss is not None:
            values["perplexity"] = calculate_perplexity(loss)
        if self.exact_match and self.exact_match.complete:
            values["exact_match"] = self.exact_match.value
        before = evaluation.second_set_losses.get("before")
        after = evaluation.second_set_losses.get("after")
        if before is not None and after is not None:
            values["forgetting"] = after - before
        benchmarks = self.benchmarks.values()
        if benchmarks:
            values["benchmarks"] = benchmarks
        for name, by_set in self._values_by_set().items():
            if by_set:
                values[f"{name}_by_set"] = by_set
        return values

    def _values_by_set(self) -> dict[str, dict[str, float]]:
        """Of several sets the loss on each, and the metrics; empty of one set."""
        evaluation = self.evaluation
        losses = evaluation.losses_by_set.get(self.stage, {})
        values = {"loss": losses}
        values["perplexity"] = {name: calculate_perplexity(loss) for name, loss in losses.items()}
        if self.exact_match and self.exact_match.complete:
            values["exact_match"] = self.exact_match.values_by_set()
        before = evaluation.second_set_losses_by_set.get("before", {})
        after = evaluation.second_set_losses_by_set.get("after", {})
        values["forgetting"] = {name: after[name] - before[name] for name in after}
        return values

    @property
    def stage(self) -> str:
        """The losses that a run is judged by."""
        return "test" if self.experiment.test else "final"

    def facts(self) -> dict[str, dict]:
        """The record's `metric_facts`: on what the values were measured, what that took, and each row's score."""
        facts: dict[str, dict] = {}
        if "perplexity" in self.values():
            facts["perplexity"] = {"split": judged_split(self.experiment)}
        if self.exact_match and self.exact_match.complete:
            facts["exact_match"] = self.exact_match.facts()
        second_set = self.evaluation.second_set
        losses = self.evaluation.second_set_losses
        if second_set is not None and losses:
            facts["forgetting"] = {**second_set.facts(), **losses}
        benchmarks = self.benchmarks.metric_facts()
        if benchmarks:
            facts["benchmarks"] = benchmarks
        return facts
