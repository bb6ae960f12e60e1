"""The statistics against values computed otherwise, and against what they promise over many simulated reports."""

import numpy as np
import pytest
from scipy import stats as reference

from tuneoff.report.ranking import judge_columns
from tuneoff.report.stats import (
    ALPHA,
    adjust_by_holm,
    bootstrap_examples,
    estimate_mean,
    find_pareto_front,
    paired_p_values,
)

SEEDS = (3, 5, 10)


def test_interval_is_the_textbook_one():
    # t(0.975, 4) = 2.7764 (any printed table); sd of 1..5 is 1.5811
    found = estimate_mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0 and found.n == 5
    assert found.half == pytest.approx(2.7764451 * 1.5811388 / 5**0.5, rel=1e-6)
    low, high = reference.t.interval(0.95, 4, loc=3.0, scale=reference.sem([1, 2, 3, 4, 5]))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("values", "half"),
    [([], "none"), ([1.0], None), ([1.0, 2.0], None), ([1.0, np.nan, 2.0], None)],
)
def test_fewer_than_three_seeds_have_no_interval(values, half):
    found = estimate_mean(values)
    assert found is None if half == "none" else found.half is None


def test_the_bootstrap_over_examples_covers_the_truth():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(400):
        low, high = bootstrap_examples((rng.random((3, 300)) < 0.4).mean(axis=0))
        hits += low <= 0.4 <= high
    assert 0.93 <= hits / 400 <= 0.97
    assert bootstrap_examples(np.zeros(12)) is None


def test_paired_p_is_scipys_also_with_missing_seeds():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, 7))
    second[2, :3] = np.nan
    for row, p in enumerate(paired_p_values(first - second)):
        kept = ~np.isnan(second[row])
        assert p == pytest.approx(
            reference.ttest_rel(first[row][kept], second[row][kept]).pvalue, rel=1e-9
        )


def test_no_test_without_three_pairs_or_without_spread():
    assert np.isnan(
        paired_p_values(np.array([[1.0, 2.0, np.nan], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]))
    ).all()


def test_holm_on_a_worked_example():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone; a missing test does not count.
    found = adjust_by_holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    assert found == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_cover_the_truth(seeds):
    rng = np.random.default_rng(seeds)
    hits = 0
    for sample in rng.normal(2.9, 0.03, size=(4000, seeds)):
        found = estimate_mean(sample)
        hits += abs(found.mean - 2.9) <= found.half
    assert 0.93 <= hits / 4000 <= 0.97


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seeds", SEEDS)
def test_equal_methods_are_seldom_told_apart(seeds, columns):
    """Eleven equal methods that share each seed's noise: any star or bold at all is a false difference."""
    rng, reports = np.random.default_rng(100 * seeds + columns), 600
    false = 0
    for _ in range(reports):
        shared = rng.normal(size=seeds)
        verdicts = judge_columns(
            [shared + rng.normal(size=(11, seeds)) for _ in range(columns)], baseline=4
        )
        false += any((verdict.p < ALPHA).any() or verdict.bold.any() for verdict in verdicts)
    assert false / reports <= 0.07


@pytest.mark.slow
def test_without_a_baseline_too():
    rng = np.random.default_rng(1)
    false = sum(judge_columns([rng.normal(size=(11, 5))], None)[0].bold.any() for _ in range(600))
    assert false / 600 <= 0.07


def test_real_differences_are_found_and_ties_share_bold():
    rng = np.random.default_rng(2)
    truth = np.array([0.0, 0.0, 1.0, 1.0, 2.0])
    values = rng.normal(size=6) + 0.05 * rng.normal(size=(5, 6)) + truth[:, None]
    (verdict,) = judge_columns([values], baseline=2)
    assert (verdict.p < ALPHA).tolist() == [True, True, False, False, True]
    assert verdict.bold.tolist() == [True, True, False, False, False]
    assert np.isnan(verdict.p[2])


def test_what_differs_from_a_best_baseline_is_not_bold():
    """The star needs less than bold's all-pairs test: both must still say the same of one pair."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        values = rng.normal(size=5) + 0.3 * rng.normal(size=(11, 5)) + 0.2 * np.arange(11)[:, None]
        (verdict,) = judge_columns([values], baseline=0)
        if verdict.bold[0] and values.mean(axis=1).argmin() == 0:
            assert not (verdict.bold & (verdict.p < ALPHA)).any()


def test_rows_with_missing_seeds_are_judged_on_common_seeds():
    values = np.array(
        [[1.0, 1.1, 1.2, 1.3], [2.0, 2.2, np.nan, 2.3], [np.nan, np.nan, np.nan, 0.1]]
    )
    (verdict,) = judge_columns([values], baseline=0)
    assert verdict.p[1] == pytest.approx(
        reference.ttest_rel([2.0, 2.2, 2.3], [1.0, 1.1, 1.3]).pvalue
    )
    assert np.isnan(verdict.p[2]) and not verdict.bold[2]


THREE = np.array([3.0, 3.1, 3.05])
WORSE = THREE + np.array([0.5, 0.51, 0.52])


def test_values_that_are_the_same_share_the_first_place():
    """There is no test of them, and surely they are not told apart; nor are those that rounding alone parts."""
    values = np.array([THREE, THREE, THREE + np.array([5e-16, 1e-15, 8e-16]), WORSE])
    for baseline in (3, None):
        (verdict,) = judge_columns([values], baseline)
        assert verdict.bold.tolist() == [True, True, True, False]
        assert not verdict.untested.any()
    (verdict,) = judge_columns([values], 0)
    assert verdict.equal.tolist() == [False, True, True, False]
    assert np.isnan(verdict.p[:3]).all() and verdict.p[3] < ALPHA


def test_rows_that_could_not_be_tested_against_the_best_are_known():
    few = [np.nan, 3.0, np.nan]
    constant = THREE + 0.25
    nothing = [np.nan, np.nan, np.nan]
    values = np.array([THREE, few, constant, WORSE, nothing])
    (verdict,) = judge_columns([values], 3)
    assert verdict.bold.tolist() == [True, False, False, False, False]
    assert verdict.untested.tolist() == [False, True, True, False, False]


EASY = np.array([3.0, 3.1, 3.2, 4.0, 4.1, 4.2])


def test_a_row_that_ran_on_easy_seeds_is_not_best_by_its_mean():
    easy = EASY + 0.05 + 0.002 * np.arange(6)
    easy[3:] = np.nan
    values = np.array([easy, EASY, EASY + 0.3 + 0.003 * (np.arange(6) % 2)])
    for baseline in (1, 2, None):
        (verdict,) = judge_columns([values], baseline)
        assert verdict.best == 1
        assert verdict.bold.tolist() == [False, True, False]
    assert verdict.reorder([2, 1, 0]).best == 1 and verdict.reorder([1, 0, 2]).best == 0


def test_rows_that_beat_each_other_in_a_circle_have_no_best():
    """Each is surely below the next at the three seeds that they share."""
    own = np.array([0.0, 0.001, 0.003])
    values = np.full((3, 9), np.nan)
    for first in range(3):
        shared = slice(3 * first, 3 * first + 3)
        values[first, shared] = 1.0 + own
        values[(first + 1) % 3, shared] = 2.0
    (verdict,) = judge_columns([values], None)
    assert verdict.best is None and not verdict.bold.any() and not verdict.untested.any()


def test_without_a_difference_from_the_baseline_no_best_is_looked_for():
    baseline = EASY[:5] + np.array([0.5, -0.6, 0.5, -0.4, 0.3])
    low = EASY[:5] - 0.3
    high = low + 0.5 + np.array([0.0, 0.001, 0.002, 0.001, 0.0])
    (verdict,) = judge_columns([np.array([low, baseline, high])], 1)
    assert verdict.best is None and not verdict.bold.any()
    (verdict,) = judge_columns([np.array([low, baseline, high])], None)
    assert verdict.best == 0 and verdict.bold.tolist() == [True, True, False]


def test_rounding_is_no_difference_though_it_varies():
    rounding = np.array([5e-16, 1e-15, 8e-16])
    differences = np.array([rounding, rounding])
    p_values = paired_p_values(differences, sizes=np.array([3.0, 1e-15]))
    assert np.isnan(p_values[0]) and p_values[1] < ALPHA


@pytest.mark.parametrize("absurd", [1e300, 1.7e308, -1.7e308])
def test_one_absurd_value_changes_no_other_test(absurd):
    values = np.array([THREE, WORSE, THREE + np.array([0.01, -0.02, 0.015])])
    row = np.array([[absurd, 3.0, absurd]])
    (alone,) = judge_columns([values], 0)
    (beside,) = judge_columns([np.concatenate([values, row])], 0)
    # Of one test more, Holm asks more.
    assert beside.p[1] == pytest.approx(alone.p[1] * 3 / 2, rel=1e-9)
    assert np.isfinite(beside.p[1:3]).all()


def test_front():
    assert find_pareto_front([(3, 1), (1, 3), (2, 2), (2, 3), (4, 1)]) == [1, 2, 0]
    assert find_pareto_front([]) == []
