"""How many seeds: by the noncentral t distribution, and checked by simulated sweeps that the report's own tests judge."""

import argparse
import re

import numpy as np
import pytest
from records import record, write
from scipy import stats as reference

from tuneoff.report import power_cli
from tuneoff.report.caption import write_caption
from tuneoff.report.compare import make_comparisons
from tuneoff.report.power import (
    count_comparisons,
    count_seeds,
    find_power,
    find_smallest_difference,
    limit_spread,
    measure_power,
)
from tuneoff.report.reading import read_records
from tuneoff.report.stats import ALPHA, adjust_by_holm, paired_p_values

TESTS = 10  # differences to the baseline in one table


def simulate_power(difference: float, spread: float, seeds: int, sweeps: int = 2000) -> float:
    """The share of simulated tables in which Holm's tests show one row's difference beside nine of none."""
    rng = np.random.default_rng(7)
    differences = rng.normal(0, spread, (sweeps, TESTS, seeds))
    differences[:, 0] += difference
    p_values = paired_p_values(differences.reshape(-1, seeds)).reshape(sweeps, TESTS)
    return float(np.mean([adjust_by_holm(table)[0] < ALPHA for table in p_values]))


@pytest.mark.parametrize("power", [0.8, 0.9])
def test_simulated_sweeps_of_so_many_seeds_have_the_power(power):
    alpha = ALPHA / TESTS
    seeds = count_seeds(0.01, 0.008, alpha, power)
    assert (
        find_power(0.01, 0.008, seeds - 1, alpha) < power <= find_power(0.01, 0.008, seeds, alpha)
    )
    assert simulate_power(0.01, 0.008, seeds) == pytest.approx(
        find_power(0.01, 0.008, seeds, alpha), abs=0.025
    )


def test_simulated_sweeps_show_the_smallest_difference_as_often_as_said():
    smallest = find_smallest_difference(0.02, 5, ALPHA / TESTS, 0.8)
    assert simulate_power(smallest, 0.02, 5) == pytest.approx(0.8, abs=0.025)


def test_the_limit_covers_the_spread_in_80_percent_of_pilots():
    rng = np.random.default_rng(3)
    spreads = rng.normal(0, 1, (4000, 5)).std(axis=1, ddof=1)
    covered = np.mean([limit_spread(spread, 5) >= 1 for spread in spreads])
    assert covered == pytest.approx(0.8, abs=0.02)


def test_what_cannot_be_reached_is_said():
    assert count_seeds(1e-6, 1.0, 0.005, 0.8) is None
    assert count_seeds(1.0, 0.0, 0.005, 0.8) == 3
    assert find_power(100.0, 0.01, 5, 0.005) == 1.0


@pytest.mark.parametrize("pairs", [3, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("ratio", [0.01, 1.0, 2.0, 5.0, 10.0, 50.0])
def test_the_power_is_the_integral_over_the_spreads(pairs, alpha, ratio):
    """Also where SciPy's series of one tail ends in NaN."""
    degrees = pairs - 1
    critical = reference.t.isf(alpha / 2, degrees)
    shift = ratio * np.sqrt(pairs)
    shares = (np.arange(100_000) + 0.5) / 100_000  # a quantile of the spread each
    spreads = np.sqrt(reference.chi2.ppf(shares, degrees) / degrees)
    above = reference.norm.sf(critical * spreads - shift)
    below = reference.norm.cdf(-critical * spreads - shift)
    expected = float(np.mean(above + below))
    assert find_power(ratio, 1.0, pairs, alpha) == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two methods beside full, five seeds; lora differs from it by a spread of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    for method, loss in (("full", 3.0), ("lora", 3.02), ("dora", 3.3)):
        for seed in range(5):
            write(folder / method / str(seed), record(method, seed, loss=loss, noise=0.02))
    return folder


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    power_cli.add_arguments(parser)
    return power_cli.run(parser.parse_args(list(map(str, arguments))))


def test_the_command_and_the_report_say_it(sweep, capsys):
    comparison = make_comparisons(read_records([sweep])[0], "full", strict=False)[0]
    quality = comparison.qualities[0]
    powers = list(measure_power(comparison, quality, 0.05))
    assert [power.row.method for power in powers] == ["dora", "lora"]
    tests = count_comparisons(comparison)
    assert tests == 2 * len(comparison.qualities)
    for power in powers:
        differences = power.row.differences_to(comparison.baseline, quality.path)
        assert power.spread == pytest.approx(np.std(differences, ddof=1))
        assert power.seeds <= power.seeds_high and power.seeds <= power.seeds_cautious
    assert run(sweep, "--difference", 0.05, "--baseline", "full") == 0
    printed = capsys.readouterr().out
    assert f"to full, by paired t tests, Holm over {tests} comparisons" in printed
    lora = next(line for line in printed.splitlines() if line.startswith("lora"))
    assert lora.split()[1] == "5" and lora.split()[3] == str(powers[1].seeds)
    assert "With 80 % power these seeds show a difference of" in write_caption(comparison)


def test_rows_whose_differences_do_not_spread_say_nothing(tmp_path, capsys):
    losses = {"full": [3.0, 3.1, 3.2], "galore": [3.0, 3.1, 3.2], "dora": [3.25, 3.35, 3.45]}
    for method, values in losses.items():
        for seed, loss in enumerate(values):
            content = record(method, seed)
            content["loss"] |= {"final": loss, "test": loss}
            write(tmp_path / method / str(seed), content)
    assert run(tmp_path, "--difference", 0.05, "--baseline", "full") == 2
    assert "differences are not all the same" in capsys.readouterr().err
    (comparison,) = make_comparisons(read_records([tmp_path])[0], "full", strict=False)
    assert "With 80 % power" not in write_caption(comparison)


def test_a_comparison_without_the_metric_is_left_out_and_said(tmp_path, capsys):
    for steps in (200, 90):
        for method in ("full", "lora"):
            for seed in range(3):
                content = record(method, seed, steps=steps)
                if steps == 200:
                    content["metrics"] = {"bleu": 0.4 + 0.01 * seed * (method == "lora")}
                write(tmp_path / f"{steps}{method}{seed}", content)
    assert run(tmp_path, "--difference", 0.05, "--baseline", "full", "--metric", "bleu") == 0
    said = capsys.readouterr()
    assert said.out.count("To tell a difference of 0.05 in bleu") == 1
    assert re.fullmatch(r"comparison [AB]: left out, it has no bleu\n", said.err)


def test_refusals(sweep, tmp_path, capsys):
    write(tmp_path / "full", record("full"))
    write(tmp_path / "lora", record("lora"))
    for arguments, line in (
        ((sweep, "--difference", 0), "--difference 0: must be a number other than 0"),
        ((sweep, "--difference", "nan"), "--difference nan: must be a number"),
        (
            (sweep, "--difference", 1, "--metric", "bleu"),
            "--metric bleu: must be one of loss_test",
        ),
        ((tmp_path, "--difference", 1), "no two rows have three seeds in common"),
        ((tmp_path / "none", "--difference", 1), "no such folder"),
    ):
        assert run(*arguments) == 2
        assert line in capsys.readouterr().err
