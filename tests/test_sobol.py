"""Sobol points: evenly over the space, the same for every method, and refused where they are no space."""

import pytest
from helpers import composed
from sweeping import SWEEPS, plan

from tuneoff.config import ConfigError
from tuneoff.sweeps.sobol import list_sobol_points, refuse_bad_space, scale_value

SPACE = {"points": 8, "around": {"lr": [0.1, 10]}, "between": {"warmup_ratio": [0, 0.2]}}


def values_of(words: list[list[str]], key: str) -> list[str]:
    return [
        word.partition("=")[2] for point in words for word in point if word.startswith(f"{key}=")
    ]


def test_points_fill_the_space_evenly():
    task = composed("method=lora", "lr=1e-3")
    points = list_sobol_points(SPACE, task, set())
    rates = sorted(map(float, values_of(points, "lr")))
    assert len(points) == 8
    # One of eight points in each eighth of an axis, by the logarithm of the rate.
    for place, rate in enumerate(rates):
        assert 10 ** (-4 + place / 4) <= rate * 1.01 and rate <= 1.01 * 10 ** (-4 + (place + 1) / 4)
    shares = sorted(map(float, values_of(points, "warmup_ratio")))
    assert all(
        place / 40 <= share + 1e-3 and share <= (place + 1) / 40 + 1e-3
        for place, share in enumerate(shares)
    )


def test_methods_share_what_they_both_have():
    space = {"points": 4, "around": {"lora_rank": [0.5, 2]}, "between": {"weight_decay": [0, 0.1]}}
    lora = list_sobol_points(space, composed("method=lora"), set())
    full = list_sobol_points(space, composed("method=full"), set())
    assert values_of(lora, "weight_decay") == values_of(full, "weight_decay")
    assert values_of(lora, "lora_rank") and not values_of(full, "lora_rank")
    assert not values_of(
        list_sobol_points(space, composed("method=lora"), {"lora_rank"}), "lora_rank"
    )


def test_whole_settings_stay_whole():
    assert (
        scale_value(8, 0.5) == "4"
        and scale_value(1024, 2.0) == "2048"
        and scale_value(1, 0.1) == "1"
    )
    assert scale_value(1e-3, 3.16) == "0.00316"


def test_the_ready_space_plans_as_many_points_for_each_method():
    jobs = plan("-cd", str(SWEEPS), "-cn", "tune_space", "method=full,lora", "max_tokens=1000")
    by_method = [[job for job in jobs if f"method={name}" in job] for name in ("full", "lora")]
    assert [len(words) for words in by_method] == [16, 16]
    sizes = [values_of(words, "batch_size") for words in by_method]
    assert sizes[0] == sizes[1] and {int(size) for size in sizes[0]} <= set(range(4, 17))


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({"points": 3, "around": {"lr": [0.1, 1]}}, "points=3: must be a power of 2"),
        ({"points": 4}, "needs around or between"),
        ({"points": 4, "around": {"lr": [0, 1]}}, "around.lr=.*must be"),
        ({"points": 4, "between": {"weight_decay": [1, 0]}}, "between.weight_decay=.*must be"),
    ],
)
def test_what_is_no_space_is_refused(space, line):
    with pytest.raises(ConfigError, match=line):
        refuse_bad_space(space)
