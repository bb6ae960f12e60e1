"""Tables: figures that can be traced, digits that mean something, and files that other programs accept."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from records import METHODS, comparison, load, prediction, ranks, record, write
from scipy import stats as reference

from tuneoff.report import latex, write_tables
from tuneoff.report.caption import write_caption
from tuneoff.report.presentation import Presentation
from tuneoff.report.table import make_columns

BASELINE = METHODS[4]


def lines(made) -> list[dict]:
    return list(csv.DictReader(io.StringIO(write_tables.write_csv(made))))


@pytest.fixture
def made(tmp_path):
    return load(comparison(tmp_path), baseline=BASELINE)


def test_a_table_of_many_rows_is_grouped_by_family(tmp_path, made):
    assert "family" not in lines(made)[0]
    for index in range(20):
        content = record(f"m{index:02}", points=2) | {"family": "low_rank" if index else "prompt"}
        write(tmp_path / "many" / str(index), content)
    families = [line["family"] for line in lines(load(tmp_path / "many"))]
    assert families == [*["low-rank adapters"] * 19, "prompts"]


def test_csv_figures_are_those_of_the_records(made):
    line = next(line for line in lines(made) if line["method"] == METHODS[0])
    values = [run.number("loss.test") for run in made[0].rows[0].runs]
    base = [record_of(made, BASELINE, seed).number("loss.test") for seed in range(5)]
    low, high = reference.t.interval(0.95, 4, loc=np.mean(values), scale=reference.sem(values))
    assert float(line["loss_test"]) == pytest.approx(np.mean(values), rel=1e-7)
    assert float(line["loss_test_interval"]) == pytest.approx((high - low) / 2, rel=1e-6)
    interval = reference.ttest_rel(values, base).confidence_interval()
    assert float(line["loss_test_difference"]) == pytest.approx(
        np.mean(values) - np.mean(base), rel=1e-6
    )
    assert float(line["loss_test_difference_interval"]) == pytest.approx(
        (interval.high - interval.low) / 2, rel=1e-6
    )
    runs = made[0].rows[0].runs
    assert (int(line["trainable"]), int(line["ever_trained"])) == (
        runs[0].number("parameters.trainable"),
    ) * 2
    for key in ("tokens_per_second", "train_seconds"):
        assert float(line[key]) == pytest.approx(
            np.mean([run.number(f"throughput.{key}") for run in runs]), rel=1e-7
        )
    for phase in ("load", "train", "evaluate"):
        assert float(line[f"peak_{phase}_gib"]) == max(
            run.number(f"memory.peak_gib.{phase}") for run in runs
        )
    assert (line["seeds_finished"], line["seeds_planned"]) == ("5", "5")
    assert (line["tuning_jobs"], line["tuning_tokens"], line["tuning_seconds"]) == (
        "5",
        "650000",
        "162.5",
    )
    assert line["lr_space"] == "0.0001 0.0003 0.001 0.003 0.01"


def record_of(made, method: str, seed: int):
    row = next(row for row in made[0].rows if row.method == method)
    return row.finished[seed]


def test_nothing_is_dropped(made):
    text = write_tables.write_markdown(made, {})
    assert [line["method"] for line in lines(made)] == METHODS
    outcome = {line["method"]: line["outcome"] for line in lines(made)}
    assert (
        outcome[METHODS[2]] == "out of memory 5" and outcome[METHODS[5]] == "finished 4, diverged 1"
    )
    assert "| out of memory 5 |" in text and "| 4 of 5 |" in text and "| 0 of 5 |" in text


def test_a_rate_on_the_edge_of_its_grid_is_flagged(made):
    (rate,) = [column for column in make_columns(made[0]) if column.key == "lr"]
    assert [cell.text.endswith(" (edge)") for cell in rate.cells] == [
        index == 3 for index in range(len(METHODS))
    ]
    (tried,) = [column for column in make_columns(made[0]) if column.key == "lr_space"]
    assert (rate.cells[0].text, tried.cells[0].text) == ("1e-3", "5 in [1e-4, 1e-2]")


def test_rates_that_nobody_tuned_rank_nothing(made, tmp_path):
    assert "ranks no methods" not in write_caption(made[0])
    for seed in (0, 1, 2):
        for method, source in ((METHODS[0], "tuned"), (METHODS[1], "default")):
            write(
                tmp_path / f"untuned/{method}{seed}", record(method, seed) | {"lr_source": source}
            )
    comparisons = load(tmp_path / "untuned")
    assert write_caption(comparisons[0]).startswith(
        "This table ranks no methods: a rate marked (default)"
    )
    (rate,) = [column for column in make_columns(comparisons[0]) if column.key == "lr"]
    assert {cell.text.endswith(" (default)") for cell in rate.cells} == {True, False}


def test_caption_says_how_it_was_judged(made):
    text = write_caption(made[0])
    for said in (
        "Student-t",
        "paired-t",
        f"baseline {BASELINE} (as asked)",
        "Holm",
        "4 to 5 finished seeds",
        "2³⁰",
        "Model tiny, data docstrings, on AMD EPYC",
    ):
        assert said in text


def test_fewer_than_three_seeds_show_no_interval_and_the_table_says_why(tmp_path):
    for method in METHODS[:2]:
        for seed in range(2):
            write(tmp_path / f"{method}{seed}", record(method, seed))
    text = write_tables.write_markdown(load(tmp_path), {})
    assert "±" not in text and "No interval for any row: fewer than 3 seeds have finished" in text
    assert "\\*" not in text.split("Budget")[0] and "**" not in text


def test_rows_of_one_method_are_named_by_what_differs(tmp_path):
    (made,) = load(ranks(tmp_path))
    assert [row.label for row in made.rows][:2] == [
        "some_interval=50, some_rank=8",
        "some_interval=50, some_rank=32",
    ]
    assert all(len(row.finished) == 3 for row in made.rows)


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    for place in ("a", "b"):
        write(tmp_path / place, record(METHODS[0], 0))
    (made,) = load(tmp_path)
    assert len(made.rows[0].finished) == 1 and "repeat a setting and seed" in write_caption(made)


def test_the_newest_of_two_runs_counts_whatever_its_time_zone(tmp_path):
    times = {"a": "2026-11-27T10:00:00+02:00", "b": "2026-11-27T09:00:00+00:00", "c": "no time"}
    for place, (name, time) in enumerate(times.items()):
        content = record(METHODS[0], 0) | {"finished_at": time}
        content["loss"]["test"] = float(place)
        write(tmp_path / name, content)
    (made,) = load(tmp_path)
    assert made.rows[0].values_by_seed("loss.test") == {0: 1.0}  # b's: an hour after a's


def test_the_direction_of_a_metric_is_stated_or_in_its_own_name(tmp_path):
    task = "salient_translation_error_detection"
    metrics = {
        task: {"exact_match flexible-extract": 0.5},
        "pile": {"word_perplexity": 20.0},
        "bias": {"likelihood_diff": 0.4},
        "terrors": {"acc": 0.4},
        "loss_by_set": {"letters": 3.0},
    }
    content = record(METHODS[0]) | {"metrics": metrics}
    content["metric_facts"] = {
        "bias": {"likelihood_diff": {"higher_is_better": False}},
        "terrors": {"acc": {"higher_is_better": None}},
    }
    write(tmp_path / "a", content)
    (made,) = load(tmp_path)
    directions = {quality.metric: quality.lower_is_better for quality in made.qualities}
    assert directions == {
        "loss.test": True,
        f"{task}.exact_match flexible-extract": False,
        "pile.word_perplexity": True,
        "bias.likelihood_diff": True,
        "terrors.acc": False,
        "loss_by_set.letters": True,
    }


def test_a_task_metric_has_its_direction(tmp_path):
    for seed in range(5):
        for method, right in zip(METHODS[:2], (0.7, 0.3), strict=True):
            content = record(method, seed)
            content["metrics"] = {
                "exact_match": right + (0.013 if right > 0.5 else 0.01) * seed,
                "forgetting": 0.1,
            }
            write(tmp_path / f"{method}{seed}", content)
    (made,) = load(tmp_path, baseline=METHODS[1])
    found = {column.title: column for column in make_columns(made)}
    assert [cell.bold for cell in found["Exact match ↑"].cells] == [True, False]
    assert found["Δ exact match"].cells[0].text.endswith("*") and "Forgetting ↓" in found


def test_perplexity_is_shown_and_not_tested_a_second_time(tmp_path):
    for seed in range(5):
        for place, method in enumerate(METHODS[:2]):
            content = record(method, seed, loss=3 + place)
            content["metrics"] = {"perplexity": float(np.exp(content["loss"]["test"]))}
            write(tmp_path / f"{method}{seed}", content)
    (made,) = load(tmp_path)
    assert (
        "Perplexity" in (titles := [column.title for column in make_columns(made)])
        and "Δ perplexity" not in titles
    )
    assert [quality.key for quality in made.qualities] == ["loss_test"]


def answered(tmp_path: Path, seeds: int, examples: int = 200) -> dict[tuple[str, int], np.ndarray]:
    """Two methods that answer the same questions, the second one three questions in a hundred better."""
    rng = np.random.default_rng(7)
    hard, found = rng.random(examples), {}
    for seed in range(seeds):
        for method, skill in zip(METHODS[:2], (0.40, 0.43), strict=True):
            scores = hard < skill + 0.01 * seed
            content = record(method, seed)
            content["metrics"] = {"exact_match": float(scores.mean())}
            content["metric_facts"] = {
                "exact_match": {"split": "test", "scores": "".join(map(str, map(int, scores)))}
            }
            write(tmp_path / f"{method}{seed}", content)
            found[method, seed] = scores.astype(float)
    return found


@pytest.mark.parametrize("seeds", [1, 5])
def test_test_examples_have_a_bootstrap_of_their_own(tmp_path, seeds):
    """Against SciPy's bootstrap, which draws the examples themselves; shown for a single seed, too."""
    scores = answered(tmp_path, seeds)
    (made,) = load(tmp_path, baseline=METHODS[0])
    better = [
        np.mean([scores[method, seed] for seed in range(seeds)], axis=0) for method in METHODS[:2]
    ]
    line = lines([made])[1]
    for key, sample in (
        ("exact_match", better[1]),
        ("exact_match_difference", better[1] - better[0]),
    ):
        low, high = reference.bootstrap(
            (sample,), np.mean, method="percentile", rng=1
        ).confidence_interval
        assert float(line[f"{key}_examples_low"]) == pytest.approx(low, abs=0.006)
        assert float(line[f"{key}_examples_high"]) == pytest.approx(high, abs=0.006)
    found = {column.title: column.cells[1].text for column in make_columns(made)}
    assert ("±" in found["Exact match ↑"]) == (seeds == 5) and found["Exact match ↑"].endswith("]")
    assert found["Δ exact match"].startswith(
        "+0.0"
    ) and "bootstrap over the 200 examples" in write_caption(made)
    assert "[" not in found["Test loss"]


@pytest.mark.parametrize("scores", ["", "0120", 7, None, ["0"], "01"])
def test_scores_that_cannot_be_paired_give_no_bootstrap(tmp_path, scores):
    answered(tmp_path, 3)
    other = record(METHODS[1], 0)
    other["metrics"], other["metric_facts"] = (
        {"exact_match": 0.4},
        {"exact_match": {"scores": scores}},
    )
    write(tmp_path / f"{METHODS[1]}0", other)
    (made,) = load(tmp_path, baseline=METHODS[0])
    assert made.example_scores(made.qualities[1], made.rows[0]) is not None
    of_seeds = made.rows[1].scores_by_seed("exact_match")
    assert sorted(of_seeds) == ([] if scores == "01" else [1, 2])


def test_a_prediction_stands_in_the_row_of_its_setting(tmp_path):
    write(tmp_path / "run", record(METHODS[0]))
    for index, method in enumerate(METHODS[:2]):
        write(tmp_path / f"predicted{index}", prediction(method), "prediction.json")
    (made,) = load(tmp_path, strict=True)
    assert [(len(row.runs), row.predicted_run is not None) for row in made.rows] == [
        (1, True),
        (0, True),
    ]
    found = {column.title: [cell.text for cell in column.cells] for column in make_columns(made)}
    assert found["Predicted peak train (GiB)"] == ["0.25", "0.25"] and found[
        "Card needed (GiB)"
    ] == ["0.75", "0.75"]
    assert "Largest batch" not in found and "Predicted: tensors alone" in write_caption(made)


def test_a_prediction_does_not_depend_on_the_rate_and_says_what_fits(tmp_path):
    for index in range(3):
        write(tmp_path / f"run{index}", record(METHODS[0], lr=10.0**-index))
    write(
        tmp_path / "foreseen",
        prediction(METHODS[0], lr=0.5) | {"largest_batch": {"gib": 24.0, "batch_size": 6}},
        "prediction.json",
    )
    (made,) = load(tmp_path)
    found = {column.title: [cell.text for cell in column.cells] for column in make_columns(made)}
    assert found["Largest batch"] == ["6 in 24 GiB"] * 3


def test_what_a_run_foresaw_of_itself_is_shown(tmp_path):
    refused = record(METHODS[0], status="predicted_out_of_memory")
    refused["prediction"] = {
        "needed_gib": 31.5,
        "peak_gib": {"train": 31.0},
        "breakdown_gib": {"parameters": 31.0},
    }
    write(tmp_path / "a", refused)
    write(tmp_path / "b", record(METHODS[1]))
    (made,) = load(tmp_path)
    found = {column.title: [cell.text for cell in column.cells] for column in make_columns(made)}
    assert (
        found["Card needed (GiB)"] == ["31.50", "–"]
        and found["Outcome"][0] == "predicted out of memory 1"
    )


def test_the_summary_has_what_decides_and_fits_a_readme(made):
    table, said = write_tables.write_summary(made, Presentation()).split("\n\n")
    head, _, *rows = table.splitlines()
    assert head.strip("| ").split(" | ") == [
        "Method",
        "Learning rate",
        "Test loss",
        "Δ test loss",
        "Peak train (GiB)",
        "Tokens/s",
        "Trainable",
        "Outcome",
    ]
    assert [row.split(" | ")[0].strip("| ").replace("\\", "") for row in rows] == METHODS
    assert said.strip() and max(map(len, rows)) < 150


def test_the_same_records_give_the_same_bytes(tmp_path):
    comparison(tmp_path)
    parts = sorted(tmp_path.iterdir())
    first, second = load(tmp_path), load(*parts[::-1])
    for write_as in (
        write_tables.write_csv,
        latex.write_latex,
        lambda made: write_tables.write_markdown(made, {}),
    ):
        assert write_as(first) == write_as(second)


def test_latex_parts_are_narrow_and_keep_a_difference_beside_its_measure(tmp_path):
    answered(tmp_path, 5)
    parts = latex.write_latex(load(tmp_path)).split("\\begin{tabular}")[1:]
    heads = [
        part.split("\\toprule")[1].split("\\midrule")[0].replace("\\\\", " ") for part in parts
    ]
    assert len(heads) == 2 and all(head.strip().startswith("Method & ") for head in heads)
    for measure in ("test", "exact"):
        assert sum(f"Delta$ {measure}" in head for head in heads) == 1
    assert all(("Delta$ exact" in head) == ("{Exact match" in head) for head in heads)
    rows = [
        row for part in parts for row in part.split("\\midrule")[1].splitlines() if " & " in row
    ]
    assert (
        max(len(row.replace("$\\pm$", "±").replace("$+$", "+").replace("$-$", "-")) for row in rows)
        < 150
    )


def test_a_speed_from_few_steps_is_marked_and_the_caption_says_of_how_many(tmp_path):
    few = record("lora", 0)
    few["throughput"]["measured_steps"] = 2
    for name, content in (("few", few), ("many", record("full", 0))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(content))
    [compared] = load(tmp_path)
    [speed] = [one for one in make_columns(compared) if one.key == "tokens_per_second"]
    marks = {
        row.method: "†" in cell.text for row, cell in zip(compared.rows, speed.cells, strict=True)
    }
    assert marks == {"full": False, "lora": True}
    caption = write_caption(compared)
    assert "over 2 to 195 measured steps a run (†: fewer than 10, too few for a rate)" in caption


def test_what_max_length_took_of_the_examples_is_told(tmp_path):
    for seed, cut in ((0, 0), (1, 500)):
        content = record("lora", seed, lr=1e-3 * (1 + seed))
        content["provenance"]["data"] |= {"cut": {"train": cut}, "dropped": {"train": 0}}
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "result.json").write_text(json.dumps(content))
    [compared] = load(tmp_path)
    [lost] = [one for one in make_columns(compared) if one.key == "lost_rows"]
    assert sorted(cell.text for cell in lost.cells) == ["25 % cut to max_length", "–"]


def test_rates_that_were_tuned_otherwise_are_marked(tmp_path):
    content = record("lora", 0)
    content["tuning"] = {"best": {"lr": 1e-3}, "differs": {"batch_size": ["8", "16"]}}
    for name, one in (("lora", content), ("full", record("full", 0))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(one))
    [compared] = load(tmp_path)
    [rates] = [one for one in make_columns(compared) if one.key == "lr"]
    assert [cell.text for cell in rates.cells] == ["1e-3", "1e-3 (tuned otherwise)"]
    assert "Tuned otherwise (batch_size 8, here 16): lora." in write_caption(compared)


def test_what_a_model_costs_afterwards_has_columns(tmp_path):
    adapter = record("lora")
    adapter["facts"] = {"saved_bytes": 3 * 2**19}
    merged = {"decode_tokens_per_second": 80.0, "logits_difference": 2e-6}
    adapter["serving"] = {
        "prompt_tokens": 128,
        "new_tokens": 64,
        "merges": True,
        "plain_lora_rank": 8,
        "prefill_seconds": 0.5,
        "decode_tokens_per_second": 60.0,
        "merged": {"prefill_seconds": 0.4, **merged},
    }
    other = record("dora")
    other["serving"] = {"merges": False, "plain_lora_rank": None}
    for content in (adapter, other, record("full")):
        write(tmp_path / content["method"], content)
    comparison = load(tmp_path)[0]
    columns = {column.key: column for column in make_columns(comparison)}
    texts = {key: [cell.text for cell in columns[key].cells] for key in columns}
    assert texts["saved_mib"] == ["–", "–", "1.50"]
    assert texts["merges"] == ["no", "–", "yes (logits ±2e-6)"]
    assert texts["plain_lora_rank"] == ["no", "–", "rank 8"]
    assert texts["decode_tokens_per_second"][2] == "60.0"
    assert texts["merged_decode_tokens_per_second"][2] == "80.0"
    assert "one greedy answer of 64 tokens to a prompt of 128" in write_caption(comparison)
