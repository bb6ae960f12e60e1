"""Schedules as functions of progress: transformers' own, at the middle of each step, with warm-up by share or steps."""

import math

import pytest
import torch
from helpers import composed
from transformers import get_scheduler

from tuneoff.config import ConfigError, bind
from tuneoff.training.schedule import Schedule

STEPS = 100


def make_schedule(*words: str, steps: float = STEPS) -> Schedule:
    experiment, _ = bind(composed("method=full", *words))
    return Schedule(experiment, steps)


def transformers_rates(name: str, places: int, **options) -> list[float]:
    """The factors that transformers' scheduler gives, at twice as many places as we have steps."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_training_steps=places, **options)
    rates = []
    for _ in range(places):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("words", "name", "options"),
    [
        (["scheduler=linear"], "linear", {}),
        (["scheduler=cosine"], "cosine", {}),
        (["scheduler=constant_with_warmup"], "constant_with_warmup", {}),
        (
            ["scheduler=cosine_with_restarts", "scheduler_cycles=3"],
            "cosine_with_restarts",
            {"scheduler_specific_kwargs": {"num_cycles": 3}},
        ),
        (
            ["scheduler=polynomial", "scheduler_power=2", "min_lr_ratio=0.2"],
            "polynomial",
            {"scheduler_specific_kwargs": {"power": 2.0, "lr_end": 0.2}},
        ),
        (
            ["scheduler=cosine", "min_lr_ratio=0.1"],
            "cosine_with_min_lr",
            {"scheduler_specific_kwargs": {"min_lr_rate": 0.1}},
        ),
        (["scheduler=inverse_sqrt"], "inverse_sqrt", {}),
        (
            ["scheduler=wsd", "decay_ratio=0.25", "min_lr_ratio=0.1"],
            "warmup_stable_decay",
            {"scheduler_specific_kwargs": {"num_decay_steps": 50, "min_lr_ratio": 0.1}},
        ),
    ],
)
def test_each_schedule_is_that_of_transformers_at_the_middle_of_a_step(words, name, options):
    """In half steps: the middle of our step n is transformers' place 2n + 1."""
    schedule = make_schedule(*words, "warmup_ratio=0.1")
    expected = transformers_rates(name, 2 * STEPS, num_warmup_steps=20, **options)[1::2]
    rates = [schedule.rate_factor(step) for step in range(STEPS)]
    # Of wsd, transformers begins the warm-up at min_lr_ratio too.
    first = 10 if "wsd" in words[0] else 0
    assert rates[first:] == pytest.approx(expected[first:], abs=1e-9)
    assert schedule.warmup == 0.1


def test_without_warm_up_inverse_sqrt_counts_steps():
    schedule = make_schedule("scheduler=inverse_sqrt", "warmup_ratio=0", steps=20_000)
    assert schedule.rate_factor(10_000) == pytest.approx(math.sqrt(0.5), abs=1e-4)


def test_a_warm_up_in_steps_takes_the_place_of_the_share():
    schedule = make_schedule("scheduler=constant", "warmup_steps=4", "warmup_ratio=0.5", steps=8)
    rates = [schedule.rate_factor(step) for step in range(8)]
    assert rates == pytest.approx([0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1])
    assert make_schedule("warmup_steps=0").warmup == 0
    # One that is longer than the budget never ends, and breaks nothing.
    for scheduler in ("wsd", "cosine", "inverse_sqrt", "polynomial"):
        long = make_schedule(f"scheduler={scheduler}", "warmup_steps=8", steps=8)
        assert long.rate_factor(7) == pytest.approx(7.5 / 8)
        assert 0 <= long.rate_factor(8) <= 1


def test_a_warm_up_in_steps_needs_a_budget_that_has_steps():
    with pytest.raises(ConfigError, match="warmup_steps=4: must be null where max_seconds"):
        make_schedule("warmup_steps=4", "max_steps=null", "max_seconds=3")


@pytest.mark.parametrize("scheduler", ["cosine_with_restarts", "wsd", "polynomial", "inverse_sqrt"])
def test_every_schedule_goes_by_seconds_too(scheduler):
    words = [f"scheduler={scheduler}", "max_steps=null", "max_seconds=10", "warmup_ratio=0.1"]
    schedule = make_schedule(*words, steps=math.inf)
    rates = []
    for second in range(1, 11):
        schedule.seconds = float(second)
        rates.append(schedule.rate_factor(second))
    assert rates[0] == 1 and all(0 <= rate <= 1 for rate in rates)
    assert sorted(rates, reverse=True) == rates
