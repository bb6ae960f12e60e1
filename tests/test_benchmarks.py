"""Benchmarks in a run: a task of one's own is asked before and after training, and what came of it is in the record."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, bound, trajectory
from local_hub import serve

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.report.reading import read_records

WORDS = ["apple", "house", "river", "stone"]
TASK = """task: four_words
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [apple, house]
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
    aggregation: mean
    higher_is_better: false
"""

GSM8K_CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with one task of four rows."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"After {word} comes", "label": place % 2} for place, word in enumerate(WORDS)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (folder / "four_words.yaml").write_text(TASK.format(path=path))
    return folder


@pytest.mark.slow
def test_a_task_of_ones_own(run, tasks, tmp_path):
    settings = ["method=lora", "max_steps=2", "lr=1e-2", "lora_dropout=0.1"]
    asked = ["benchmarks=[four_words]", f"benchmark_folder={tasks}", "benchmarks_before=true"]
    result = run(*settings, *asked, folder=tmp_path / "asked")
    assert result["status"] == "finished", result["error"]
    before = result["benchmarks"]["before"]["four_words"]
    after = result["benchmarks"]["after"]["four_words"]
    assert before["examples"] == after["examples"] == 4 and after["errors"]["acc"] >= 0
    assert after["higher_is_better"] == {"acc": True, "acc_norm": False}
    facts = result["metric_facts"]["benchmarks"]["four_words"]["acc"]
    assert facts["rows"] == 4 and facts["higher_is_better"] is True
    assert result["memory"]["peak_gib"]["benchmark"] > 0
    assert result["metrics"]["benchmarks"] == {"four_words": {"acc": after["metrics"]["acc"]}}
    lines = [json.loads(line) for line in (tmp_path / "asked" / record.BENCHMARKS).open()]
    assert [(line["when"], line["example"]) for line in lines] == [
        (when, example) for when in ("before", "after") for example in range(4)
    ]
    # Examples are scored in the record, so that a report can pair them.
    (seen,), skipped = read_records([tmp_path / "asked"])
    scores = seen.scores("benchmarks.four_words.acc")
    assert not skipped and scores.mean() == after["metrics"]["acc"]
    assert list(scores) == [line["scores"]["acc"] for line in lines[4:]]
    # Asking changes nothing of the training.
    run(*settings, folder=tmp_path / "plain")
    assert trajectory(tmp_path / "asked") == trajectory(tmp_path / "plain")


@pytest.mark.slow
def test_a_task_of_the_hub(tmp_path):
    """The harness's own `gsm8k`, whose rows it fetches from a hub, and what the run says of it."""
    pytest.importorskip("lm_eval")
    import datasets

    rows = [
        {"question": f"What is {number} + 1?", "answer": f"One more.\n#### {number + 1}"}
        for number in range(8)
    ]
    for split in ("train", "test"):
        path = tmp_path / "gsm8k" / "main" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_list(rows).to_parquet(path)
    (tmp_path / "gsm8k" / "README.md").write_text(GSM8K_CARD)
    command = [sys.executable, "train.py", "method=lora", "max_steps=2", "data.limit=40"]
    command += ["benchmarks=[gsm8k]", "benchmark_limit=4", "benchmark_fewshot=1", "max_length=64"]
    command += ["tracker=none", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "datasets")
    with serve({("datasets", "openai/gsm8k"): tmp_path / "gsm8k"}) as hub:
        environment["HF_ENDPOINT"] = hub.endpoint
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    result = record.read_json(tmp_path / "run" / record.RESULT)
    after = result["benchmarks"]["after"]["gsm8k"]
    assert after["examples"] == 4 and set(after["metrics"]) >= {
        "exact_match strict-match",
        "exact_match flexible-extract",
    }
    lines = [json.loads(line) for line in (tmp_path / "run" / record.BENCHMARKS).open()]
    assert [line["example"] for line in lines] == [0, 1, 2, 3]
    assert any("openai/gsm8k/resolve" in request for request in hub.requests)
    assert "HTTP Request" not in done.stderr


def test_a_task_whose_rows_cannot_be_had_is_refused_before_training(new_run, tmp_path):
    pytest.importorskip("lm_eval")
    task = TASK.format(path=tmp_path / "nowhere.jsonl").replace("four_words", "elsewhere")
    (tmp_path / "elsewhere.yaml").write_text(task)
    hub = task.replace("elsewhere", "of_hub").replace("dataset_path: json", "dataset_path: a/b")
    (tmp_path / "of_hub.yaml").write_text(hub)
    asked = ["method=full", "max_steps=1", f"benchmark_folder={tmp_path}"]
    with pytest.raises(
        ConfigError, match="benchmarks=elsewhere: the task cannot be loaded: .*nowhere.jsonl"
    ):
        new_run(*asked, "benchmarks=[elsewhere]")
    with pytest.raises(ConfigError, match="benchmarks=of_hub: .*'a/b' on the Hub"):
        new_run(*asked, "benchmarks=[of_hub]")


def test_what_the_base_answered_is_kept_over_a_resume(new_run, tasks, tmp_path):
    settings = [
        "method=lora",
        "benchmarks=[four_words]",
        f"benchmark_folder={tasks}",
        "benchmark_limit=2",
    ]
    training = new_run(*settings, folder=tmp_path)
    asked = training.parts.benchmarks
    drawn = torch.random.get_rng_state()
    asked.run("before", training.parts.model, training.parts.tokenizer, training.parts.engine)
    assert torch.equal(drawn, torch.random.get_rng_state())
    state = json.loads(json.dumps(asked.state()))
    asked.run("after", training.parts.model, training.parts.tokenizer, training.parts.engine)
    asked.restore(state)
    assert list(asked.results) == ["before"] and asked.results == state["results"]
    assert [line["example"] for line in asked.lines] == [0, 1]


def test_a_name_that_is_no_task_is_refused(new_run, tasks, tmp_path, monkeypatch):
    from lm_eval import tasks as harness

    class OnlyOwn(harness.TaskManager):
        def __init__(self, include_path=None, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(harness, "TaskManager", OnlyOwn)
    with pytest.raises(ConfigError, match="words is no task .*; there are four_words"):
        new_run("method=lora", "benchmarks=[words]", f"benchmark_folder={tasks}", folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["benchmarks_before=true"], "benchmarks_before=true: needs benchmarks="),
        (["benchmark_limit=5"], "benchmark_limit=5: needs benchmarks="),
        (["benchmarks=[gsm8k]", "benchmark_limit=0"], "benchmark_limit=0: must be at least 1"),
    ],
)
def test_refusals(options, line):
    with pytest.raises(ConfigError, match=line):
        bound("method=lora", *options)


def test_without_the_package_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("tuneoff.config.options.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"needs a package that is not installed: pip install 'tuneoff\[lm-eval\]'",
    ):
        bound("method=lora", "benchmarks=[gsm8k]")
