"""Forecast: seconds a step, tokens a second and the hours of a run on a device, as ranges."""

from collections.abc import Iterable, Sequence

import torch

from tuneoff.config import Experiment
from tuneoff.measure.cards import CPU, list_cards
from tuneoff.measure.rates import Rates, forecast_rates, measure_cpu
from tuneoff.predict.run_length import RunLength
from tuneoff.predict.step_time import TypicalStep, describe_work, estimate_seconds, mean_seconds

SECONDS_AN_HOUR = 3600


def forecast_time(experiment: Experiment, steps: Sequence[TypicalStep], length: RunLength) -> dict:
    """prediction.json's `time`: each range from the fast end to the slow one, for the device of the settings.

    Args:
        steps: the kinds of steps that the method takes on the rows of `length`.
    """
    slow, fast, source = _find_rates(experiment)
    step_seconds = [mean_seconds(steps, rates) for rates in (fast, slow)]
    slowest_kind = max(steps, key=lambda step: estimate_seconds(step.counts, fast))
    slowest_seconds = [estimate_seconds(slowest_kind.counts, rates) for rates in (fast, slow)]
    tokens = length.tokens_a_step
    return {
        "device": experiment.device,
        "rates": source,
        "step_seconds": _round_all(step_seconds),
        "slowest_step_seconds": _round_all(slowest_seconds),
        "tokens_per_second": _round_all(tokens / seconds for seconds in step_seconds[::-1]),
        "steps": length.steps,
        "hours": _forecast_hours(length, step_seconds),
        "rows": length.basis,
        "work_a_step": describe_work(steps),
        "not_counted": "loading, evaluation, saving, and what several processes send each other",
    }


def _forecast_hours(length: RunLength, step_seconds: Sequence[float]) -> list[float] | None:
    """The hours of the train steps; None where the budget is epochs of data that are not at hand."""
    if length.seconds is not None:
        return _round_all([length.seconds / SECONDS_AN_HOUR] * 2)
    if length.steps is None:
        return None
    return _round_all(length.steps * seconds / SECONDS_AN_HOUR for seconds in step_seconds)


def _find_rates(experiment: Experiment) -> tuple[Rates, Rates, str]:
    """The slow and the fast end of what the device does, and where these figures come from."""
    if experiment.device == CPU:
        threads = torch.get_num_threads()
        slow, fast = measure_cpu(experiment.compute_dtype, threads)
        return slow, fast, f"measured on this machine's CPU, {threads} threads"
    assert experiment.device is not None
    card = list_cards()[experiment.device]
    slow, fast = forecast_rates(card, experiment.tf32)
    return slow, fast, f"{card.name}: {card.source}"


def _round_all(values: Iterable[float]) -> list[float]:
    """To four digits that count."""
    return [float(f"{value:.4g}") for value in values]
