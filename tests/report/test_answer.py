"""The answer in words: what the table's own tests show, and nothing where they may not be asked."""

import json

import numpy as np
import pytest
from records import METHODS, comparison, load, ranks, record, tuning, write

from tuneoff.report import stats, write_tables
from tuneoff.report.answer import write_answer
from tuneoff.report.caption import write_caption, write_short_caption
from tuneoff.report.table import make_columns

TUNED = {"method_cost": {"jobs": 5}, "best": {"lr": 1e-3}, "space": {"lr": [1e-4, 1e-3]}}


def fill(
    folder, losses: dict[str, float], seeds: int = 5, tuned=True, gib=None, noise: float = 0.005
):
    for method, loss in losses.items():
        for seed in range(seeds):
            peak = (gib or {}).get(method, 0.8)
            content = record(method, seed, loss=loss, noise=noise, train_gib=peak)
            if tuned is True or method in (tuned or ()):
                content["tuning"] = TUNED
            write(folder / f"{method}{seed}", content)
    return folder


def answer(folder, baseline=None) -> str:
    (made,) = load(folder, baseline=baseline)
    return " ".join(write_answer(made))


def test_the_best_its_ties_and_the_baseline_are_named_as_the_table_marks_them(tmp_path):
    losses = {"full": 3.1, "lora": 3.0, "dora": 3.0, "badam": 3.2}
    gib = {"full": 1.0, "lora": 0.9, "dora": 0.95, "badam": 0.5}
    (made,) = load(fill(tmp_path, losses, gib=gib), baseline="full")
    text = " ".join(write_answer(made))
    bold = {
        row.method for row, is_bold in zip(made.rows, made.verdicts[0].bold, strict=True) if is_bold
    }
    assert bold == {"lora", "dora"}
    first = text.partition(". Against")[0]
    assert first.startswith("On docstrings with tiny, ") and "has the lowest test loss" in first
    assert first.endswith("cannot be told from it") and "lora" in first and "dora" in first
    against = text.partition("Against full alone, in test loss, ")[2].partition(". The peak")[0]
    better, worse = against.split("; worse: ")
    assert better.startswith("better: ") and "lora by 0.1" in better and "dora by 0.1" in better
    assert worse.startswith("badam by 0.1")
    assert (
        "lowest with badam, 0.50 GiB (50 % of full's)" in text
        and "speeds are measured and not tested" in text
    )


def test_a_single_winner_differs_from_all_others(tmp_path):
    text = answer(fill(tmp_path, {"full": 3.2, "lora": 3.0, "dora": 3.1}))
    assert "lora has the lowest test loss" in text and "and differs from all 2 other rows." in text


def fill_values(folder, values: dict[str, list[float | None]], finals=3.0):
    """Tuned rows with these test losses, a seed each."""
    for method, losses in values.items():
        for seed, loss in enumerate(losses):
            content = record(method, seed)
            content["loss"] |= {"final": finals + 0.01 * seed, "test": loss}
            content["tuning"] = TUNED
            write(folder / f"{method}{seed}", content)
    return folder


def test_a_row_with_the_same_losses_as_the_best_shares_its_place(tmp_path):
    same = [3.0, 3.1, 3.05]
    values = {"galore": same, "galore_layerwise": same, "full": [3.5, 3.61, 3.57]}
    text = answer(fill_values(tmp_path, values), "galore")
    assert "galore has the lowest test loss" in text
    assert "; galore_layerwise cannot be told from it." in text
    assert "not told from it: galore_layerwise" in text and "differs from" not in text


def test_a_row_that_was_not_tested_is_not_said_to_differ(tmp_path):
    """One seed in common with the best, or the same difference at every seed."""
    values = {
        "lora": [3.0, 3.1, 3.05],
        "dora": [None, None, 3.06, 3.1, 3.0],
        "pissa": [3.25, 3.35, 3.3],
        "full": [3.5, 3.601, 3.5515],
    }
    (made,) = load(fill_values(tmp_path, values), baseline="full")
    text = " ".join(write_answer(made))
    assert "and differs from the one other row that could be tested" in text
    assert "; not tested against it: dora and pissa." in text
    assert "not tested: dora." in text  # against full, of which it has one seed
    assert "Not tested against the best in test loss" in write_caption(made)
    assert "dora, pissa." in write_caption(made)


def test_a_lower_row_of_too_few_seeds_is_named(tmp_path):
    values = {"full": [3.0, 3.1, 3.05], "dora": [3.2, 3.312, 3.26], "lora": [2.5, 2.51]}
    (made,) = load(fill_values(tmp_path, values), baseline="full")
    text = " ".join(write_answer(made))
    assert "full has the lowest test loss at 3 common seeds or more, 3.05" in text
    assert "; lower, but over other or too few seeds: lora." in text
    assert "not tested: lora." in text
    for caption in (write_caption(made), write_short_caption(made)):
        assert "Rows without every seed" in caption and ": lora (2 of 3)." in caption


def test_a_row_of_easy_seeds_alone_is_not_called_best(tmp_path):
    full = [3.0, 3.1, 3.2, 4.0, 4.1, 4.2]
    worse = [loss + 0.3 + 0.003 * (seed % 2) for seed, loss in enumerate(full)]
    values = {"full": full, "lora": [3.05, 3.152, 3.254], "dora": worse}
    (made,) = load(fill_values(tmp_path, values), baseline="full")
    text = " ".join(write_answer(made))
    assert "full has the lowest test loss at 3 common seeds or more, 3.60" in text
    assert "all 2 other rows; lower, but over other or too few seeds: lora." in text
    assert "worse: lora by 0.0520" in text and ": lora (3 of 6)." in write_caption(made)


def test_a_row_without_a_seed_of_the_baseline_is_not_tested_against_it(tmp_path):
    values = {"full": [3.0, 3.1, 3.05], "lora": [3.2, 3.312, 3.26]}
    values["dora"] = [None, None, None, 3.1, 3.2, 3.15]
    text = answer(fill_values(tmp_path, values), "full")
    assert "worse: lora by" in text and "; not tested: dora." in text


def test_nothing_is_ranked_for_want_of_a_test_loss(tmp_path):
    """All seeds have finished, so that it cannot be said that they did not."""
    values = {"full": [3.0, 3.1, 3.05], "lora": [None, None, 3.2]}
    text = answer(fill_values(tmp_path, values))
    assert "nothing is ranked: fewer than 3 of the finished seeds of lora have a test loss." in text


def change(folder, method: str, edit) -> None:
    """Edit the records of a method; `edit(content)` changes one."""
    for path in sorted(folder.glob(f"{method}[0-9]*/result.json")):
        content = json.loads(path.read_text())
        edit(content)
        write(path.parent, content)


def test_a_rate_that_is_not_the_tuned_one_ranks_nothing(tmp_path):
    fill(tmp_path, {"full": 3.3, "lora": 3.0})
    best = {"lr": 5e-4, "batch_size": 8}

    def override(content: dict) -> None:
        content["lr_source"] = "given"
        content["tuning"] = {**TUNED, "best": best, "overridden": {"lr": "0.001"}}

    change(tmp_path, "lora", override)
    (made,) = load(tmp_path)
    text = " ".join(write_answer(made))
    assert "nothing is ranked: the learning rates of lora are not those that were tuned." in text
    (rates,) = [column for column in make_columns(made) if column.key == "lr"]
    assert [cell.text for cell in rates.cells] == ["1e-3", "1e-3 (not the tuned one)"]
    assert write_caption(made).startswith(
        "This table ranks no methods: a rate marked (not the tuned"
    )
    assert "Learning rates that are not the tuned ones: lora (tuned: 5e-4)." in write_caption(made)


def test_what_a_tuning_did_not_find_is_not_taken_for_tuned(tmp_path):
    """A rate given beside a tuning of other settings, and a tuned setting that was overridden."""
    fill(tmp_path / "given", {"full": 3.3, "lora": 3.0})
    change(tmp_path / "given", "lora", lambda content: content.update(lr_source="given"))
    assert "the learning rates of lora were not tuned" in answer(tmp_path / "given")
    fill(tmp_path / "batch", {"full": 3.3, "lora": 3.0})
    tuning = {**TUNED, "best": {"lr": 1e-3, "batch_size": 8}, "overridden": {"batch_size": "16"}}
    change(tmp_path / "batch", "lora", lambda content: content.update(tuning=tuning))
    (made,) = load(tmp_path / "batch")
    assert "lora were tuned under other settings" in " ".join(write_answer(made))
    assert "Tuned otherwise (batch_size 8, here 16): lora." in write_caption(made)


def test_a_mean_of_the_seeds_that_did_not_diverge_is_called_so(tmp_path):
    fill(tmp_path, {"full": 3.3, "lora": 3.0, "dora": 3.4})
    for seed in (3, 4):
        write(tmp_path / f"lora{seed}", record("lora", seed, status="diverged") | {"tuning": TUNED})
    (made,) = load(tmp_path, baseline="full")
    text = " ".join(write_answer(made))
    survivors = "lora (without its 2 of 5 seeds that diverged)"
    assert f"{survivors} has the lowest test loss" in text and f"better: {survivors} by" in text
    for caption in (write_caption(made), write_short_caption(made)):
        assert (
            "Seeds that diverged are in no mean or test" in caption and "lora (2 of 5)." in caption
        )


def test_paused_runs_are_no_failures(tmp_path):
    write(tmp_path / "a", record("lora", lr=1e-3))
    for place, rate in enumerate((1e-4, 1e-2)):
        content = record("lora", lr=rate, status="interrupted") | {"paused_after": 0.25}
        write(tmp_path / f"paused{place}", content)
    write(tmp_path / "stopped", record("full", status="interrupted"))
    (made,) = load(tmp_path)
    assert [row.outcome for row in made.rows] == [
        "interrupted 1",
        "paused 1",
        "finished 1",
        "paused 1",
    ]
    text = " ".join(write_answer(made))
    assert "Not every run finished: full (interrupted 1)." in text
    assert "but the better candidates: lora lr=0.0001 (paused 1), lora lr=0.01 (paused 1)." in text


def test_equal_methods_are_not_ranked(tmp_path):
    """Under the null no sentence calls a row better than another."""
    text = answer(fill(tmp_path, {"full": 3.0, "lora": 3.0, "dora": 3.0}, noise=0.05), "full")
    (made,) = load(tmp_path, baseline="full")
    assert not (made.verdicts[0].p < stats.ALPHA).any()
    assert (
        "No row can be told from full in any measure (paired t over seeds, Holm), so which is best in test loss was "
        "not tested."
    ).lower() in text.lower()
    assert "so which is best was not tested." in write_caption(made)
    assert (
        "better:" not in text and "worse:" not in text and "not told from it: dora and lora" in text
    )


@pytest.mark.parametrize(
    ("seeds", "tuned", "reason"),
    [
        (1, True, "fewer than 3 seeds of two rows have finished"),
        (2, True, "fewer than 3 seeds of two rows have finished"),
        (5, False, "the learning rates were not tuned"),
        (5, ("full", "lora"), "the learning rates of dora were not tuned"),
    ],
)
def test_few_seeds_and_untuned_rates_rank_nothing(tmp_path, seeds, tuned, reason):
    text = answer(fill(tmp_path, {"full": 3.3, "lora": 3.0, "dora": 3.1}, seeds, tuned))
    assert f"nothing is ranked: {reason}" in text
    for word in ("Against", "lowest test loss", "better", "worse", "differs from"):
        assert word not in text
    assert "Test loss was measured from" in text


def test_a_metric_has_a_sentence_of_its_own_in_its_direction(tmp_path):
    for seed in range(5):
        for method, right in (("lora", 0.7), ("full", 0.3)):
            content = record(method, seed, noise=0.05)
            content["metrics"] = {"exact_match": right + (0.013 if right > 0.5 else 0.01) * seed}
            content["tuning"] = TUNED
            write(tmp_path / f"{method}{seed}", content)
    text = answer(tmp_path, "full")
    assert "lora has the highest exact match, 0.726" in text and "better: lora by 0.4" in text


def test_failures_one_row_and_none_are_said(tmp_path):
    text = answer(comparison(tmp_path / "all"))
    assert f"Not every run finished: {METHODS[2]} (out of memory 5)" in text
    write(tmp_path / "one", record("lora"))
    assert "nothing else has finished to compare it with" in answer(tmp_path / "one")
    write(tmp_path / "none", record("lora", status="failed"))
    assert "no run has finished" in answer(tmp_path / "none")


@pytest.mark.parametrize("make", [tuning, ranks])
def test_a_sweep_over_settings_ranks_nothing(tmp_path, make):
    assert "nothing is ranked" in answer(make(tmp_path))


def test_alike_peaks_are_called_alike(tmp_path):
    assert "alike in all: 0.80 GiB" in answer(fill(tmp_path, {"full": 3.0, "lora": 3.1}))


def test_the_answer_stands_above_the_markdown_table(tmp_path):
    made = load(fill(tmp_path, {"full": 3.2, "lora": 3.0}))
    text = write_tables.write_markdown(made, {})
    assert text.startswith("On docstrings with tiny, lora has the lowest test loss")


def test_means_over_fewer_values_than_seeds_are_noted(tmp_path):
    """And a perplexity of validation data is not averaged with those of test data."""
    values = {"full": [3.0, 3.1, 3.05, 3.2], "lora": [3.2, 3.3, 3.35, None]}
    fill_values(tmp_path, values)
    for path in tmp_path.glob("*/result.json"):
        content = json.loads(path.read_text())
        tested = content["loss"]["test"] is not None
        content["metrics"]["perplexity"] = 20.0 if tested else 500.0
        path.write_text(json.dumps(content))
    (made,) = load(tmp_path, baseline="full")
    noted = (
        "Over fewer values than seeds have finished: Test loss of lora (3 of 4), Δ test loss of lora (3 of 4), "
        "Perplexity of lora (3 of 4)."
    )
    assert noted in write_caption(made) and noted in write_short_caption(made)
    (column,) = [column for column in make_columns(made) if column.key == "perplexity"]
    assert [cell.value for cell in column.cells] == [20.0, 20.0]


def test_drawn_losses_are_never_called_more_than_the_tests_show(tmp_path):
    """Random methods with no difference between them: at most one report in twenty may name one."""
    rng = np.random.default_rng(5)
    named = 0
    for trial in range(40):
        losses = dict.fromkeys(METHODS[:4], 3.0)
        folder = fill(tmp_path / str(trial), {}, 0)
        for method in losses:
            for seed in range(4):
                content = record(method, seed)
                content["loss"]["test"] = 3 + 0.05 * float(rng.standard_normal())
                content["tuning"] = TUNED
                write(folder / f"{method}{seed}", content)
        text = answer(folder, METHODS[0])
        named += "has the lowest" in text or "better" in text or "worse" in text
    assert named <= 5  # of 40 at 5 %: more than 5 come in a hundredth of all cases
