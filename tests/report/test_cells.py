"""Cells of tables: as many digits as mean something."""

import pytest

from tuneoff.report.cells import difference_cell, estimate_cell, format_count, format_rate
from tuneoff.report.stats import Estimate


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (2.93417, 0.01234, "2.934 ± 0.012"),
        (12345.6, 78.9, "12,346 ± 79"),
        (12345.6, None, "12,346"),
        (2.93417, None, "2.934"),
        (0.0, None, "0.0"),
        (-0.01764, 0.0278, "−0.018 ± 0.028"),
        (5.0, 0.0, "5.000 ± 0.000"),
        (2.9, 12.0, "3 ± 12"),
        (48.2, 1e-14, "48.2 ± 0.0"),
        (76.698, None, "76.7"),
        (0.07708, None, "0.077"),
        (0.0012345, None, "0.00123"),
    ],
)
def test_digits_follow_the_interval(mean, half, text):
    assert estimate_cell(Estimate(mean, half, 5)).text == text


def test_a_difference_of_one_seed_has_the_decimals_of_what_it_is_taken_from():
    assert (
        difference_cell(Estimate(0.00123456, None, 1), Estimate(3.7601, None, 1)).text == "+0.001"
    )
    assert (
        difference_cell(Estimate(-0.4321, 0.012, 5), Estimate(3.7601, 0.2, 5)).text
        == "−0.432 ± 0.012"
    )


@pytest.mark.parametrize(
    ("rate", "text"), [(1e-3, "1e-3"), (0.000316, "3.16e-4"), (5e-5, "5e-5"), (2, "2e0")]
)
def test_rates_are_powers_of_ten(rate, text):
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (234_240, "234 k"),
        (999_700, "1.00 M"),
        (99_960, "100 k"),
        (5_795_072, "5.80 M"),
        (8_030_261_248, "8.03 B"),
    ],
)
def test_counts_have_three_digits(count, text):
    assert format_count(count) == text
