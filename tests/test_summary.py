"""The closing table of a run says of each figure what it rests on."""

import json

import pytest

from tuneoff.cli.main import report_earlier_result
from tuneoff.cli.run_folder import RunEnded
from tuneoff.cli.summary import format_exact_match, format_run_summary, format_throughput
from tuneoff.config import ConfigError
from tuneoff.record import format_failure, write_json
from tuneoff.record.judgement import warn_of_losses


@pytest.mark.parametrize("more", [{}, {"parameters": 3}, {"error": "none"}, {"loss": []}])
def test_an_earlier_result_of_another_version_is_told_in_a_line(tmp_path, capsys, more):
    """`resume=FOLDER` of one ended in a traceback."""
    write_json(tmp_path / "result.json", {"status": "finished", "method": "lora", **more})
    assert report_earlier_result(RunEnded("auto", tmp_path)) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}/result.json is whole, and not as this version writes it (")


def test_a_speed_says_over_how_many_steps_it_was_measured():
    speed = {"tokens_per_second": 1234.4, "measured_steps": 175}
    assert format_throughput(speed) == "1,234 tokens/s over 175 measured steps"
    few = format_throughput({**speed, "measured_steps": 9})
    assert few == "1,234 tokens/s over 9 measured steps, too few for a rate"
    one = format_throughput({**speed, "measured_steps": 1})
    assert "over 1 measured step, too few" in one
    assert format_throughput({}) == "-"


def test_answers_that_were_cut_off_are_told_beside_their_score():
    facts = {
        "scores": "0000",
        "rows": 4,
        "split": "test",
        "seconds": 2.0,
        "cut_off": 3,
        "max_new_tokens": 8,
    }
    text = format_exact_match(0.0, facts)
    assert text.endswith("; 3 of 4 answers were cut off at max_new_tokens=8")
    assert "cut off" not in format_exact_match(0.0, {**facts, "cut_off": 0})


def test_searches_that_took_too_long_are_told_beside_the_score():
    facts = {"scores": "0010", "rows": 4, "split": "test", "seconds": 2.0, "extractor": "(x+x+)+y"}
    text = format_exact_match(0.25, {**facts, "timed_out": 3})
    assert text.endswith("; on 3 of 4 rows (x+x+)+y took too long, which counts as wrong")
    assert "too long" not in format_exact_match(0.25, {**facts, "timed_out": 0})


def test_large_shares_of_cut_and_dropped_examples_are_a_warning():
    data = {
        "rows": {"train": 62, "validation": 9, "test": 0},
        "cut": {"train": 29, "validation": 0, "test": 0},
        "dropped": {"train": 2, "validation": 1, "test": 0},
    }
    train, validation = warn_of_losses(data, 160)
    assert train.startswith("max_length=160: of 64 train examples 45 % cut to max_length, 3.1 % ")
    assert "of 10 validation examples 10 % dropped" in validation
    assert warn_of_losses({"rows": {"train": 62}}, 160) == []
    assert warn_of_losses({**data, "cut": 3, "dropped": {"train": 6}}, 160) == []


def write_rows(path, count: int, answer: str) -> None:
    rows = [{"prompt": f"question {number}", "completion": answer} for number in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))


def test_cut_examples_are_told_at_the_start_and_in_the_closing_table(run, tmp_path, caplog):
    path = tmp_path / "long.jsonl"
    write_rows(path, 12, "a long answer " * 20)
    result = run(
        "data=json", f"data.path={path}", "data.limit=null", "max_length=32", "max_steps=1"
    )
    [of_train, _] = result["facts"]["warnings"]
    assert "of 11 train examples 100 % cut to max_length" in of_train and of_train in caplog.text
    table = format_run_summary(result, tmp_path)
    assert "train 11 (100 % cut to max_length), validation 1 (100 % cut" in table
    assert f"  {of_train}" in table


def test_each_loss_is_called_by_its_split(run, tmp_path):
    from tuneoff.jobs.work import TrainWork

    result = run("test=true", "max_steps=1", folder=tmp_path / "run")
    table = format_run_summary(result, tmp_path)
    assert f"\ntest loss            {result['loss']['test']:.4f}\n" in table
    told = TrainWork.describe_losses(tmp_path / "run")
    final = result["loss"]["final"]
    assert told == f"validation loss {final:.4f}  test loss {result['loss']['test']:.4f}"
    assert TrainWork.describe_losses(tmp_path) == ""
    untested = {**result, "loss": {"initial": None, "final": None, "test": None}}
    table = format_run_summary(untested, tmp_path)
    assert "validation loss      not measured\n" in table and "test loss" not in table


@pytest.mark.parametrize(
    ("status", "kind", "message", "line"),
    [
        ("diverged", "Diverged", "diverged at step 2", "diverged at step 2"),
        ("interrupted", "Interrupted", "stopped by Ctrl-C", "interrupted: stopped by Ctrl-C"),
        ("failed", "ValueError", "no such thing", "failed: ValueError: no such thing"),
    ],
)
def test_no_failure_is_named_twice(status, kind, message, line):
    assert format_failure(status, {"type": kind, "message": message}) == line


def test_no_validation_rows_are_refused(new_run, tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, 3, "an answer")
    with pytest.raises(ConfigError, match=r"data.path=.*: no validation rows, so that nothing"):
        new_run("data=json", f"data.path={path}", "data.validation_share=null")
    long = {"prompt": "a long question " * 40, "completion": "no", "split": "validation"}
    with path.open("a") as file:
        file.write("\n" + json.dumps(long))
    for words in ((), ("data.validation_share=0",)):
        with pytest.raises(ConfigError, match="max_length=40: must be longer: no answer of the 1"):
            new_run("data=json", f"data.path={path}", "max_length=40", *words)


def test_who_asks_for_no_validation_rows_trains_without(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, 3, "an answer")
    without_split = ("data.validation_share=null", "data.splits.validation=null")
    for number, words in enumerate((("data.validation_share=0",), without_split)):
        folder = tmp_path / f"run{number}"
        result = run("data=json", f"data.path={path}", *words, folder=folder)
        assert result["status"] == "finished" and result["loss"]["final"] is None
