"""Task metrics end to end: what a model has memorised counts as right, and what was measured elsewhere is true."""

import json
import lzma
import math
from array import array

import pytest
import torch
from helpers import ROOT, bound
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.data import Question
from tuneoff.training.exact_match import ExactMatch
from tuneoff.training.failures import Interrupted

SUMS = [
    ("3 and 4", "Seven.\n#### 7"),
    ("12 hundreds", "Many.\n#### 1,200"),
    ("0", "Nothing.\n#### 0"),
    ("5 less 8", "Below.\n#### -3"),
    ("2 and 2 and 2", "Six.\n#### 6"),
    ("a price of 9", "Dear.\n#### $9."),
]
LEARN = [
    "method=full",
    "max_steps=120",
    "lr=5e-3",
    "batch_size=6",
    "exact_match=gsm8k",
    "max_new_tokens=16",
    "data.limit=null",
]


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """The same questions in every split: what is trained is what is asked."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {"split": split, "prompt": f"What is {prompt}?", "completion": completion}
        for split in ("train", "validation", "test")
        for prompt, completion in SUMS
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# ---------------------------------------------------------------- exact match
@pytest.mark.slow
def test_what_was_memorised_is_right_and_nothing_was_before(run, sums, tmp_path):
    before = run(*LEARN, f"data.path={sums}", "max_steps=1", "lr=1e-9", folder=tmp_path / "before")
    after = run(*LEARN, f"data.path={sums}", "test=true", folder=tmp_path / "after")
    assert before["metrics"]["exact_match"] == 0 and after["metrics"]["exact_match"] == 1
    facts = after["metric_facts"]["exact_match"]
    assert (
        facts["scores"] == "1" * 6
        and facts["split"] == "test"
        and facts["found"] == 6
        and facts["cut_off"] == 0
    )
    assert before["metric_facts"]["exact_match"]["scores"] == "0" * 6
    lines = [
        json.loads(line) for line in (tmp_path / "after" / record.ANSWERS).read_text().splitlines()
    ]
    assert [line["generated"] for line in lines] == [completion for _, completion in SUMS]
    assert [line["found"] for line in lines] == ["7", "1200", "0", "-3", "6", "9"]
    assert (
        facts["generated_tokens"] == sum(line["tokens"] for line in lines) and facts["seconds"] > 0
    )
    assert after["memory"]["peak_gib"]["generate"] > 0
    assert after["metrics"]["perplexity"] == math.exp(after["loss"]["test"])
    assert before["metrics"]["perplexity"] == math.exp(before["loss"]["final"])


def test_a_row_without_room_for_an_answer_is_wrong_and_counted(
    new_run, sums, tmp_path, monkeypatch
):
    training = new_run(*LEARN, f"data.path={sums}", folder=tmp_path / "all")
    lengths = [len(question.prompt) for question in training.parts.metrics.exact_match.questions]
    monkeypatch.setattr("tuneoff.training.setup.max_positions", lambda model: max(lengths) + 15)
    training = new_run(*LEARN, f"data.path={sums}", folder=tmp_path / "some")
    asked = training.parts.metrics.exact_match
    training.conclude()
    assert [line.get("too_long") for line in asked.lines()] == [
        n if n == max(lengths) else None for n in lengths
    ]
    assert 0 < asked.facts()["too_long"] < 6 and len(asked.facts()["scores"]) == 6


def test_a_search_that_takes_too_long_is_wrong_and_counted(monkeypatch):
    """The record says of how many rows nothing is known, so that 0 % is not taken for the model's fault."""
    monkeypatch.setattr("tuneoff.config.extractors.SEARCH_SECONDS", 0.05)
    experiment, _, _ = bound("method=full", "exact_match='(x+x+)+y'")
    questions = [Question([1], "xxy"), Question([1], "x" * 5_000)]
    asked = ExactMatch(experiment, questions, "validation", set(), math.inf)
    for row, question in enumerate(questions):
        compared = asked._compare("xxy", question.answer)
        asked.scores[row] = {"row": row, **compared}
    assert asked.lines()[1] == {"row": 1, "correct": False, "timed_out": True}
    assert asked.facts()["timed_out"] == 1 and asked.facts()["scores"] == "10"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["exact_match=gsm8k", "max_new_tokens=512"],
            "max_new_tokens=512: leaves no prompt of the validation split",
        ),
        (["test=true", "data.path={rows}"], "test=true: docstrings has no test rows"),
        (
            ["eval_every=1", "data.path={rows}", "data.splits.validation=null"],
            "eval_every=1: needs validation rows, and docstrings has none",
        ),
    ],
)
def test_what_could_never_be_measured_is_refused(new_run, tmp_path, options, line):
    rows = [
        json.dumps({"prompt": f"What is {prompt}?", "completion": completion})
        for prompt, completion in SUMS
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    options = [option.format(rows=tmp_path / "rows.jsonl") for option in options]
    with pytest.raises(ConfigError, match=line):
        new_run("method=full", *options, folder=tmp_path / "run")


def test_a_split_without_questions_is_refused(new_run, sums, tmp_path):
    alone = tmp_path / "alone.jsonl"
    alone.write_text(sums.read_text().splitlines()[0])
    without = [f"data.path={alone}", "data.splits.validation=null"]
    for name, data in (("alone", without), ("text", ["data=stdlib"])):
        with pytest.raises(
            ConfigError, match="exact_match=gsm8k: the validation split of .* has no questions"
        ):
            new_run("exact_match=gsm8k", *data, "data.limit=1", folder=tmp_path / name)
    with pytest.raises(
        ConfigError, match="forgetting.data.path=.*: has neither validation nor test rows"
    ):
        new_run(
            "forgetting.data=stdlib", f"forgetting.data.path={alone}", folder=tmp_path / "second"
        )
    alone.write_text("{")
    with pytest.raises(ConfigError, match="forgetting.data.path=.*: line 1"):
        new_run(
            "forgetting.data=stdlib", f"forgetting.data.path={alone}", folder=tmp_path / "broken"
        )


@pytest.mark.slow
def test_longer_answers_leave_the_training_peak(run, tmp_path):
    options = ["method=full", "max_steps=3", "exact_match=whole", "eval_batch_size=1"]
    small = run(*options, "max_new_tokens=1", "exact_match_limit=1", folder=tmp_path / "small")
    large = run(*options, "max_new_tokens=200", "eval_batch_size=48", folder=tmp_path / "large")
    peaks = [result["memory"]["peak_gib"] for result in (small, large)]
    assert peaks[1]["generate"] > peaks[0]["generate"] + 0.02
    assert peaks[1]["train"] == pytest.approx(peaks[0]["train"], abs=0.03)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_export_is_the_same_to_the_byte(run, debug_model, sums, tmp_path, method):
    base = tmp_path / "base"
    AutoTokenizer.from_pretrained(debug_model).save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(debug_model)
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5)
    model.save_pretrained(base)
    files = []
    for name, options in (("without", []), ("with", ["exact_match=gsm8k", "max_new_tokens=4"])):
        run(
            f"method={method}",
            f"model.path={base}",
            f"data.path={sums}",
            "save_model=true",
            "export_merged=true",
            *options,
            folder=tmp_path / name,
        )
        model = tmp_path / name / "model"
        files.append(
            {
                str(path.relative_to(model)): path.read_bytes()
                for path in model.rglob("*")
                if path.is_file()
            }
        )
    assert files[0] == files[1]
    kept = json.loads(
        next(content for name, content in files[0].items() if "generation_config" in name)
    )
    assert kept["do_sample"] and kept["temperature"] == 0.7


def test_a_failed_answer_does_not_lose_the_model(new_run, sums, tmp_path):
    training = new_run(*LEARN, f"data.path={sums}", "save_model=true", folder=tmp_path)
    training.parts.metrics.exact_match.questions[0] = Question(array("i", [10**6]), "no such token")
    with pytest.raises(IndexError):
        training.conclude()
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert "exact_match" not in training.measured()["metrics"]


def test_sigterm_while_answers_are_generated(new_run, sums, tmp_path):
    options = [*LEARN, f"data.path={sums}", "max_steps=2", "eval_batch_size=1"]
    options.append("exact_match_batch_size=2")
    training = new_run(*options, folder=tmp_path)
    training.fit()
    exact_match = training.parts.metrics.exact_match
    answer = exact_match.answer

    def until(*given):
        answer(*given)
        training.session.stop.set()

    exact_match.answer = until
    with pytest.raises(Interrupted):
        training.conclude()
    assert len(exact_match.scores) == 2  # one batch
    training.parts.recorder.close()
    again = new_run(*options, "resume=auto", folder=tmp_path)
    again.fit()
    again.conclude()
    assert again.trainer.step == 2 and again.parts.metrics.exact_match.complete


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.slow
def test_an_answer_ends_where_the_chat_template_ends_it(new_run, debug_model, sums, tmp_path):
    """As for a base model whose tokenizer has a chat template, and an end token that the template does not use."""
    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    model = AutoModelForCausalLM.from_pretrained(debug_model)
    model.resize_token_embeddings(len(tokenizer))
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "base")
    training = new_run(
        *LEARN, f"data.path={sums}", f"model.path={tmp_path / 'base'}", folder=tmp_path / "run"
    )
    assert training.parts.metrics.exact_match.ends == {
        tokenizer.convert_tokens_to_ids("<|im_end|>")
    }
    training.fit()
    training.conclude()
    assert [line["generated"] for line in training.parts.metrics.exact_match.lines()] == [
        answer for _, answer in SUMS
    ]
    assert training.parts.metrics.exact_match.facts()["cut_off"] == 0


# ---------------------------------------------------------------- forgetting
SECOND = ["forgetting.data=stdlib", "forgetting.data.limit=2"]


def loss_elsewhere(model, tokenizer) -> float:
    """Per-token loss of stdlib's first two validation texts in blocks of 96, one by one, with nothing of ours."""
    with lzma.open(ROOT / "src/tuneoff/assets/corpus/stdlib.jsonl.xz", "rt") as lines:
        texts = [row["text"] for row in map(json.loads, lines) if row["split"] == "validation"]
    ids = []
    for text in texts[:2]:
        ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    summed, count = 0.0, 0
    for start in range(0, len(ids), 96):
        block = torch.tensor([ids[start : start + 96]])
        with torch.no_grad():
            summed += model(block, labels=block).loss.item() * (block.numel() - 1)
        count += block.numel() - 1
    return summed / count


def test_forgetting_is_the_loss_of_the_second_set_after_less_before(run, debug_model, tmp_path):
    result = run("method=full", *SECOND, "save_model=true", "lr=1e-2")
    tokenizer = AutoTokenizer.from_pretrained(debug_model)
    losses = [
        loss_elsewhere(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)
        for folder in (debug_model, tmp_path / "run" / "model")
    ]
    facts = result["metric_facts"]["forgetting"]
    assert [facts["before"], facts["after"]] == pytest.approx(losses, abs=1e-5)
    assert abs(losses[1] - losses[0]) > 0.01
    assert result["metrics"]["forgetting"] == facts["after"] - facts["before"]
    assert facts["data"] == "stdlib" and facts["tokens"] > 500


def test_a_resumed_run_keeps_what_was_before(run, new_run, tmp_path):
    options = ["method=full", *SECOND, "save_every=2", "lr=1e-2"]
    whole = run(*options, folder=tmp_path / "whole")
    stopped = new_run(*options, folder=tmp_path / "stopped")
    take_step = stopped.trainer.take_step

    def stop_inside(step):
        stopped.session.stop.set()
        take_step(step)

    stopped.trainer.take_step = stop_inside
    with pytest.raises(Interrupted):
        stopped.fit()
    stopped.parts.recorder.close()
    again = new_run(*options, "resume=auto", folder=tmp_path / "stopped")
    assert again.trainer.step == 1
    again.fit()
    assert again.parts.evaluation.second_set_losses == {
        key: whole["metric_facts"]["forgetting"][key] for key in ("before", "after")
    }


def test_without_any_of_it_the_record_has_perplexity_alone(run):
    result = run("method=full", "max_steps=1")
    assert list(result["metrics"]) == ["perplexity"] and list(result["metric_facts"]) == [
        "perplexity"
    ]
    assert "generate" not in result["memory"]["peak_gib"]
