"""Records: a run as a report sees it, with its figures, its setting and its learning curve."""

import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

from tuneoff import record

# A run that was stopped on purpose at a share of its budget, as a tuning by halving stops all but the better ones.
PAUSED = "paused"
# The order in which a reader expects the phases of a run.
PHASES = (
    "load",
    "initialise",
    "train",
    "evaluate",
    "generate",
    "benchmark",
    "serve",
    "serve_merged",
    "export",
)
# Larger numbers are no losses, rates, tokens or seconds, and no axis can show them beside others.
NUMBERS = (int, float)
LARGEST_DRAWN = 1e15
MEMORY_PARTS = ("parameters", "gradients", "optimizer_state", "activations")


class ReportError(ValueError):
    """A report that cannot be written as asked; its text is the one line that the user sees."""


@cache  # a report asks for the same hundred paths of every record
def _split_path(path: str) -> list[str]:
    return path.split(".")


@dataclass(frozen=True)
class Curve:
    """A thinned learning curve.

    `train` is (steps, 4) of step, tokens, seconds and loss; `validation` and `second_set` are (evaluations, 2) of step
    and loss; `memory` is (steps, 2) of step and GiB in use after it, empty in records of before that was written.
    """

    train: np.ndarray
    validation: np.ndarray
    not_drawn: int = 0  # points whose values are no numbers, or too large for an axis
    second_set: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    memory: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


@dataclass(frozen=True)
class Run:
    """One record, and what a report asks of it."""

    folder: str
    content: dict
    status: str
    curve: Curve | None = field(default=None, repr=False)

    def get(self, path: str) -> Any:
        """Return the value at a path such as `loss.final`, or None."""
        value: Any = self.content
        try:
            for key in _split_path(path):
                value = value[key]
        except (KeyError, TypeError):
            return None
        return value

    def section(self, path: str) -> dict:
        """Return the object at a path; empty where there is none."""
        value = self.get(path)
        return value if isinstance(value, dict) else {}

    def number(self, path: str) -> float | None:
        """Return the finite number at a path, or None."""
        return as_number(self.get(path))

    @property
    def method(self) -> str:
        """The name of the fine-tuning method."""
        return self.content["method"]

    @property
    def family(self) -> str:
        """The family of the method, which gives it its colour."""
        family = self.content.get("family")
        if isinstance(family, str) and family in record.FAMILIES:
            return family
        return "other"

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.content["seed"]

    @property
    def predicted(self) -> bool:
        """Whether this is a prediction: nothing was trained."""
        return self.status == "predicted"

    @property
    def finished(self) -> bool:
        """Whether its figures count."""
        return self.status == "finished"

    @cached_property
    def setting(self) -> dict:
        """The config as flat keys, without the seed and what does not change a result."""
        config = dict(self.section("config"))
        for key in (*record.INCIDENTAL, "seed"):
            config.pop(key, None)
        flat = record.flatten(config)
        return {key.replace("/", "."): value for key, value in flat.items()}

    def scores(self, metric: str) -> np.ndarray | None:
        """Return a metric's score of each example, (examples,) of 0 and 1; None where the record has none.

        The record writes the scores as a string of digits.
        """
        text = self.get(f"metric_facts.{metric}.scores")
        if not isinstance(text, str) or not text or set(text) - {"0", "1"}:
            return None
        digits = np.frombuffer(text.encode(), np.uint8)
        return digits - np.float64(ord("0"))

    @cached_property
    def peaks(self) -> dict[str, float]:
        """Peak memory in GiB by phase, measured or predicted, in the order of the phases."""
        gib = self.section("memory.peak_gib") or self.section("peak_gib")
        return _keep_numbers(gib, sorted(gib, key=phase_order))

    @cached_property
    def breakdown(self) -> dict[str, float]:
        """GiB by category at the peak, measured or predicted; empty where it was not counted."""
        gib = self.section("memory.train_breakdown_gib") or self.section("breakdown_gib")
        return _keep_numbers(gib, MEMORY_PARTS)


def _keep_numbers(values: dict, keys: Any) -> dict[str, float]:
    """The entries of `keys`, in that order, that are finite numbers."""
    numbers = {}
    for key in keys:
        number = as_number(values.get(key))
        if number is not None:
            numbers[key] = number
    return numbers


def phase_order(phase: str) -> tuple[int, str]:
    """Return what sorts phases as a reader expects them; phases of another name come last, by their name."""
    place = PHASES.index(phase) if phase in PHASES else len(PHASES)
    return (place, phase)


def as_number(value: Any) -> float | None:
    """Return a finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
