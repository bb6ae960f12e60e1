"""Others' results: files of PEFT's method comparison, read, judged by their test examples, and compared over releases."""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as reference

from tuneoff.report import cli
from tuneoff.report.peft_judgement import (
    compare_releases,
    find_front,
    judge_results,
    measure_agreement,
    rank_descending,
)
from tuneoff.report.peft_results import PeftResult, keep_comparable, read_peft_results
from tuneoff.report.proportions import compare_shares, mcnemar_p_value, wilson_interval
from tuneoff.report.records import ReportError

EXAMPLES = 1319


def result_file(
    correct: int, name: str = "lora/rank32", *, gib: float = 20.0, **train_config
) -> dict:
    """One file of the form that PEFT writes."""
    config = {"model_id": "llama", "max_steps": 5000, "batch_size": 4, "max_seq_length": 768}
    evaluation = {"step": 250, "valid accuracy": 0.34, "train loss": 0.96}
    last = {"step": 5000, "test accuracy": correct / EXAMPLES, "forgetting": 0.1}
    return {
        "run_info": {
            "experiment_name": name,
            "train_config": {**config, **train_config},
            "peft_config": None if name.startswith("full") else {"peft_type": "LORA"},
        },
        "train_info": {
            "status": "success",
            "num_trainable_params": 100 if name.startswith("full") else 10,
            "file_size": 2**20,
            "train_time": 1000.0,
            "accelerator_memory_max": int(gib * 2**30),
            "metrics": [evaluation, last],
        },
        "meta_info": {
            "model_info": {"sha": "a"},
            "dataset_info": {"metamath": {"sha": "b"}, "gsm8k": {"sha": "c"}},
            "system_info": {"accelerator": "L40S"},
        },
    }


def write_files(folder: Path, *contents: dict) -> Path:
    folder.mkdir(exist_ok=True)
    for content in contents:
        name = content["run_info"]["experiment_name"].replace("/", "--")
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def make_result(name: str, correct: int, gib: float = 20.0, scores=None) -> PeftResult:
    return PeftResult(name, False, result_file(correct, name, gib=gib), correct, EXAMPLES, scores)


def test_intervals_and_tests_are_the_textbooks():
    low, high = wilson_interval(631, EXAMPLES)
    interval = reference.binomtest(631, EXAMPLES).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert wilson_interval(0, 10)[0] == 0
    table = [[600, 719], [680, 639]]
    chi = reference.chi2_contingency(table, correction=False)
    assert compare_shares(np.array(600.0), np.array(680.0), EXAMPLES) == pytest.approx(chi.pvalue)
    first = np.array([1] * 30 + [0] * 12 + [1] * 50)
    second = np.array([0] * 30 + [1] * 12 + [1] * 50)
    assert mcnemar_p_value(first, second) == pytest.approx(reference.binomtest(12, 42).pvalue)
    assert mcnemar_p_value(first, first) == 1


def test_equal_results_are_told_apart_in_at_most_5_percent_of_tables():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        counts = rng.binomial(EXAMPLES, 0.45, size=12)
        table = judge_results([make_result(f"m{i}", int(c)) for i, c in enumerate(counts)], None)
        wrong += table.ties.any() or table.told_apart_pairs > 0
    assert wrong / 200 <= 0.08


def test_ties_ranks_and_fronts():
    results = [
        make_result("best", 700, gib=30),
        make_result("close", 690, gib=20),
        make_result("far", 500, gib=25),
        make_result("cheap", 480, gib=10),
    ]
    table = judge_results(results, "far")
    assert [result.name for result in table.results] == ["best", "close", "far", "cheap"]
    assert table.ties.tolist() == [True, True, False, False]
    assert table.rank_ranges == [(1, 2), (1, 2), (3, 4), (3, 4)]
    front = find_front(table, lambda result: result.peak_gib)
    assert [result.name for result in front.measured] == ["cheap", "close", "best"]
    assert [result.name for result in front.possible] == ["best", "close", "cheap"]
    with pytest.raises(ReportError, match="--baseline nothing: must be one of best, cheap"):
        judge_results(results, "nothing")


def test_a_paired_test_sees_what_shares_alone_do_not():
    scores = np.zeros(EXAMPLES)
    scores[:600] = 1
    better = scores.copy()
    better[600:630] = 1  # right on all that the first is right on, and on thirty more
    unpaired = judge_results([make_result("a", 600), make_result("b", 630)], "a")
    paired = judge_results(
        [make_result("a", 600, scores=scores), make_result("b", 630, scores=better)], "a"
    )
    assert np.nanmin(unpaired.baseline_p) > 0.2
    assert np.nanmin(paired.baseline_p) < 1e-6 and paired.paired


def test_releases():
    before = [make_result(f"m{place}", 600 - place) for place in range(10)]
    after = [make_result(f"m{place}", 600 - place) for place in range(9)]
    after.append(make_result("m9", 700))
    moves = compare_releases(before, [*after, make_result("new", 1)])
    assert (moves.only_before, moves.only_after) == (0, 1)
    farthest = max(moves.moves, key=lambda move: abs(move.rank_change))
    assert (farthest.name, farthest.rank_before, farthest.rank_after) == ("m9", 10, 1)
    assert farthest.p < 0.01
    first = [3.0, 1.0, 4.0, 1.0, 5.0]
    second = [2.0, 7.0, 1.0, 8.0, 2.0]
    tau = reference.kendalltau(first, second).statistic
    assert measure_agreement(np.array(first), np.array(second)) == pytest.approx(tau)
    assert rank_descending(np.array([5.0, 9.0, 5.0])).tolist() == [2.5, 1, 2.5]


def test_what_is_no_result_is_skipped_and_said(tmp_path):
    canceled = result_file(500, "lora/canceled")
    canceled["train_info"]["status"] = "canceled"
    image = result_file(500, "lora/image")
    image["train_info"]["metrics"][-1] = {"test dino_similarity": 0.7}
    short = result_file(500, "lora/short", max_steps=100)
    folder = write_files(tmp_path / "results", result_file(631), canceled, image, short)
    (folder / "broken.json").write_text("{")
    (folder / "list.json").write_text("[1]")
    write_files(folder, result_file(600, "dora/rank32"))
    results, skipped = read_peft_results(folder)
    kept, left_out = keep_comparable(results)
    assert [result.correct for result in kept] == [600, 631]
    text = "\n".join([*skipped, *left_out])
    for line in (
        "lora--canceled.json: skipped, its status is canceled",
        "lora--image.json: skipped, its last metrics have no test accuracy",
        "broken.json: skipped, not readable (JSONDecodeError)",
        "list.json: skipped, it has no train_info.status",
        "lora/short: not compared, steps 100 instead of 5000",
    ):
        assert line in text


def test_an_accuracy_that_is_no_share_is_refused(tmp_path):
    folder = write_files(tmp_path / "results", result_file(631))
    with pytest.raises(ReportError, match=r"is no share of 100 examples"):
        read_peft_results(folder, examples=100)
    (folder / "lora--rank32.jsonl").write_text('{"correct": true}\n')
    with pytest.raises(ReportError, match=r"1 of 1 right, but the result says 631 of 1319"):
        read_peft_results(folder)


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(list(map(str, arguments))))


def test_the_command(tmp_path, capsys):
    new = write_files(
        tmp_path / "new",
        result_file(631),
        result_file(400, "ia3/default", gib=10),
        result_file(640, "full/lr_1e-5", gib=36),
    )
    old = write_files(tmp_path / "old", result_file(650), result_file(390, "ia3/default"))
    out = tmp_path / "out"
    assert run("--peft", new, old, "--baseline", "lora/rank32", "--out", out) == 0
    assert capsys.readouterr().err == ""
    page = (out / "peft.md").read_text()
    assert page.startswith("1. 3 results on llama, one seed each, 1,319 test examples")
    assert "10. What no test here can tell" in page
    assert "| ia3/default | 30.3 | 27.9, 32.9 | 3 | 3–3 | −17.5 \\* |" in page
    assert "| lora/rank32 | 49.3 % | 47.8 % | −1.4 | 1 | 1 |" in page
    lines = list(csv.DictReader((out / "peft.csv").open()))
    assert [line["experiment"] for line in lines] == ["full/lr_1e-5", "lora/rank32", "ia3/default"]
    assert lines[1]["baseline_p"] == lines[1]["baseline_raw_p"] == "" and lines[1]["tied"] == "1"
    assert {path.suffix for path in (out / "charts").iterdir()} == {".svg", ".pdf", ".png"}
    for arguments, line in (
        (("--peft", new, "--strict"), "--strict is for records of our own, not with --peft"),
        (("--peft", tmp_path), "no result of PEFT's method comparison"),
        (("--peft", new, old, new), "--peft takes one folder or two, not 3"),
        ((new, "--examples", 3), "--examples is for --peft"),
    ):
        assert run(*arguments) == 2
        assert line in capsys.readouterr().err


def judged_page(tmp_path, *contents: dict, older=()) -> str:
    """The page of these results, one folder a release."""
    folders = [write_files(tmp_path / "new", *contents)]
    if older:
        folders.append(write_files(tmp_path / "old", *older))
    assert run("--peft", *folders, "--out", tmp_path / "out") == 0
    return (tmp_path / "out" / "peft.md").read_text()


def test_the_best_is_named_by_the_pairs_though_nothing_differs_from_the_baseline(tmp_path):
    """The baseline lies between two that can be told apart."""
    page = judged_page(
        tmp_path,
        result_file(541, "lora/low"),
        result_file(594, "full/middle"),
        result_file(646, "lora/high"),
    )
    assert "0 are better, 0 worse" in page and "Of all 3 pairs 1 can be told apart" in page
    assert "is lora/high's; 1 other cannot be told from it (Holm over all pairs)." in page
    assert "| lora/high | **49.0** |" in page and "| lora/low | 41.0 |" in page


def test_one_result_alone_is_shown_without_tests(tmp_path):
    page = judged_page(tmp_path, result_file(631))
    assert page.startswith("1. 1 result on llama")
    assert "nothing else is there to compare it with" in page
    assert "Against" not in page and "pairs can be told" not in page


def test_releases_of_other_conditions_are_told_apart(tmp_path, capsys):
    new = (result_file(631), result_file(400, "ia3/default"))
    old = [result_file(650, model_id="mistral", max_steps=100)]
    old.append(result_file(390, "ia3/default", model_id="mistral", max_steps=100))
    page = judged_page(tmp_path, *new, older=old)
    differing = "model mistral instead of llama, steps 100 instead of 5000"
    assert f"but the older runs are of {differing}, which may have moved them" in page
    assert f"the older results are of {differing}" in capsys.readouterr().err


def test_equal_accuracies_share_a_rank(tmp_path):
    page = judged_page(
        tmp_path, result_file(700, "a/a"), result_file(631, "b/b"), result_file(631, "c/c")
    )
    ranks = [line.split(" | ")[3] for line in page.splitlines() if " | " in line][1:4]
    assert ranks == ["1", "2.5", "2.5"]
