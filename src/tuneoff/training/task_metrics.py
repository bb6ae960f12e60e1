"""Task metrics: what a run is judged by beside its loss, as the record has it."""

import math

from tuneoff.config import Experiment
from tuneoff.training.evaluation import Evaluation
from tuneoff.training.exact_match import ExactMatch

LARGEST_EXPONENT = 700  # a float ends at e^709


def judged_split(experiment: Experiment) -> str:
    """The split that a run is judged on."""
    return "test" if experiment.test else "validation"


class TaskMetrics:
    """Perplexity, exact match and forgetting, as far as they were measured."""

    def __init__(
        self, experiment: Experiment, evaluation: Evaluation, exact_match: ExactMatch | None
    ):
        self.experiment = experiment
        self.evaluation = evaluation
        self.exact_match = exact_match

    def values(self) -> dict[str, float]:
        """The record's `metrics`; each is a column of the report."""
        values = {}
        loss = self.evaluation.losses["test" if self.experiment.test else "final"]
        if loss is not None:
            values["perplexity"] = math.exp(loss) if loss < LARGEST_EXPONENT else math.inf
        if self.exact_match and self.exact_match.complete:
            values["exact_match"] = self.exact_match.value
        before = self.evaluation.second_set_losses.get("before")
        after = self.evaluation.second_set_losses.get("after")
        if before is not None and after is not None:
            values["forgetting"] = after - before
        return values

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
        return facts
