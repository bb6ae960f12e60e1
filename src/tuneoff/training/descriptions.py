"""Descriptions: what a record says of a run beside its steps, at its start and at its end."""

import time

from tuneoff.config import Experiment
from tuneoff.measure.memory_breakdown import BreakdownPeak
from tuneoff.measure.throughput import Throughput
from tuneoff.record.judgement import warn_of_losses
from tuneoff.training.device_settings import find_device_warnings
from tuneoff.training.evaluation import no_losses
from tuneoff.training.session import Session
from tuneoff.training.setup import Parts


def measured_before_set_up(session: Session, facts: dict) -> dict:
    """`Run.measured` of a run that failed while it was loaded: memory, and the other keys without a value."""
    return {
        "parameters": {},
        "loss": no_losses(),
        "loss_by_set": {},
        "memory": {
            **session.peaks.facts(),
            "train_breakdown_gib": BreakdownPeak().facts(),
        },
        "metrics": {},
        "metric_facts": {},
        "throughput": Throughput().facts(),
        "serving": {},
        "benchmarks": {},
        "kept": {},
        "facts": facts,
    }


def describe_start(experiment: Experiment, start: dict, provenance: dict) -> dict:
    """What run.json holds from the first line on."""
    kind, value = experiment.budget
    identity = start.get("identity", "run")
    return {
        **start,
        "method": experiment.method,
        "seed": experiment.seed,
        "provenance": provenance,
        "tracker_id": f"{identity}-{time.time_ns():x}",
        "budget": {"kind": kind, "value": value},
    }


def find_warnings(parts: Parts) -> list[str]:
    """What the user should know before the first step."""
    of_rows = warn_of_losses(parts.dataset.facts(), parts.experiment.max_length)
    of_budget = parts.method.warn_of_budget(parts.optimizer, parts.schedule.total_steps)
    of_budget += warn_of_warmup(parts)
    of_device = find_device_warnings(parts.experiment, parts.ranks.device)
    of_model = warn_of_unused_weights(parts)
    return [*of_rows, *of_budget, *of_device, *of_model]


def warn_of_warmup(parts: Parts) -> list[str]:
    """What a warm-up does that is longer than the budget."""
    if parts.schedule.warmup <= 1:
        return []
    steps = parts.experiment.warmup_steps
    total = parts.schedule.total_steps
    return [f"warmup_steps={steps}: the budget has {total:.12g} steps, so that lr is never reached"]


def warn_of_unused_weights(parts: Parts) -> list[str]:
    """What a checkpoint holds beyond its configuration: an image tower, or layers that were meant to be there."""
    unused = parts.model_facts.runtime["unused_weights"]
    if unused is None:
        return []
    path = parts.experiment.model.path
    return [
        f"model.path={path}: {unused}, have no place in the model of its config.json, and are left out"
    ]


def describe_parts(parts: Parts, provenance: dict) -> dict:
    """What run.json holds once the run is set up; the provenance is now whole."""
    facts = parts.method.facts(parts.model)
    facts["saved_bytes"] = parts.model_facts.saved_bytes
    facts.update(parts.model_facts.initialisation)
    add_facts(facts, {"warnings": find_warnings(parts)})
    return {
        "provenance": {
            **provenance,
            "base_weights_hash": parts.model_facts.base_weights_hash,
            "data": parts.dataset.facts(),
            "batch_order_hash": parts.order_hash(),
        },
        "optimizer": parts.optimizer_facts,
        **parts.model_facts.runtime,
        "facts": facts,
        "parameters": parts.parameters,
    }


def add_facts(facts: dict, more: dict) -> None:
    """Add entries to a record's facts; warnings come to those that are there."""
    warnings = [*facts.get("warnings", []), *more.get("warnings", [])]
    facts.update(more)
    facts.pop("warnings", None)
    if warnings:
        facts["warnings"] = warnings


def describe_speed(parts: Parts) -> dict:
    """The record's `throughput`: what steps took, what they computed, and what was compiled beside them."""
    facts = {**parts.throughput.facts(), **parts.flop_meter.facts()}
    if parts.experiment.compile:
        facts["compile_seconds"] = round(parts.layers.seconds, 3)
        facts["compilation"] = parts.layers.facts()
    return facts


def describe_reach(parts: Parts, step: int) -> tuple[dict[str, int], dict]:
    """The numbers of weights, and the method's facts, as the end of a run shows them.

    They are those of the start where no step was taken.
    """
    if not step:
        return parts.parameters, {}
    reached = parts.method.count_reached(parts.model, parts.optimizer, 0)
    parameters = {**parts.parameters, "ever_trained": reached}
    return parameters, parts.method.final_facts(parts.model, parts.optimizer)
