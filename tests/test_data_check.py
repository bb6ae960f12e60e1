"""Before a sweep's first job: whether the data has the rows that the protocol needs."""

import json

import pytest
from sweeping import SWEEPS

from tuneoff.config import ConfigError
from tuneoff.jobs.data_check import plan_checks


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"question {number}", "completion": "answer"} for number in range(12)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def data_words(path):
    return ["data=json", f"data.path={path}", "data.limit=null"]


@pytest.mark.parametrize(
    ("words", "needs", "looked_at"),
    [
        ([], (), None),  # a share gives validation rows
        ([], ("validation", "test"), ("test",)),
        (["data.test_share=0.2"], ("validation", "test"), None),
        (["test=true"], (), ("test",)),
        (["data.validation_share=null"], (), ("validation",)),
        (["data.validation_share=0"], (), None),
        (["data.validation_share=0"], ("validation",), ("validation",)),
        (["data.validation_share=null", "data.splits.validation=null"], (), None),
    ],
)
def test_only_what_no_setting_gives_is_looked_at(settings, rows, words, needs, looked_at):
    experiment, _, _ = settings(*data_words(rows), *words)
    check = next(plan_checks(experiment, needs), None)
    assert (check and check.splits) == looked_at


def test_a_set_without_the_rows_is_refused_and_one_with_them_is_not(settings, rows):
    experiment, _, _ = settings(*data_words(rows), "test=true", "data.validation_share=null")
    (check,) = plan_checks(experiment, ())
    with pytest.raises(ConfigError, match="has no test rows, by which a comparison is judged"):
        check.run()
    with rows.open("a") as file:
        for split in ("test", "validation"):
            row = {"prompt": "other", "completion": "answer", "split": split}
            file.write("\n" + json.dumps(row))
    assert check.run()["status"] == "finished"
    rows.write_text("{")  # a set that cannot be read is each job's own refusal
    assert check.run()["status"] == "finished"


@pytest.mark.slow
def test_a_tuning_without_test_rows_is_refused_before_anything_is_made(sweep, rows, tmp_path):
    tune = ["-cd", SWEEPS, "-cn", "tune"]
    code, out, err = sweep(*tune, "method=lora", *data_words(rows))
    assert code == 2 and out == "", out + err
    assert "data.test_share=0.1 takes some of the training rows, in the tuning and in" in err
    assert not (tmp_path / "sweep").exists()
