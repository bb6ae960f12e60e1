"""Templates by name: their texts token by token, with the answers in them, as LLaMA-Factory has them."""

import pytest
from sets import new_tokenizer, plain, trained, write_lines

from tuneoff.config import ConfigError, Data
from tuneoff.config.templates import NAMED_TEMPLATES
from tuneoff.data import load_dataset

LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one {} {eos}?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "2"},
]


def encode(tmp_path, tokenizer, name: str, talk: list[dict]):
    path = write_lines(tmp_path / "rows.jsonl", [{"messages": talk}])
    data = load_dataset(Data("test", str(path), template=name), tokenizer, 256)
    (row,) = data.splits["train"]
    return tokenizer.decode(list(row.ids)), trained(row, tokenizer), data


def test_llama3_is_written_as_its_name_says(tmp_path):
    tokenizer = new_tokenizer("{{ messages }}", *LLAMA3)
    tokenizer.bos_token = None
    text, answers, data = encode(tmp_path, tokenizer, "llama3", TALK)
    assert text == (
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\none {} {eos}?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\ntwo?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n2<|eot_id|>"
    )
    assert answers == ["1<|eot_id|>", "2<|eot_id|>"]
    assert data.recipe["template"] == "llama3"
    ends = {tokenizer.convert_tokens_to_ids("<|eot_id|>")}
    assert data.answer_end_tokens(tokenizer) == ends


@pytest.mark.parametrize(
    ("name", "text", "answers"),
    [
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\none?\n\n### Response:\n1<|end|>\n\n",
            ["1<|end|>\n\n"],
        ),
        ("default", "Human: one?<|end|>\nAssistant:1<|end|>\n", ["1<|end|>\n"]),
        ("mistral", "[INST] one?[/INST] 1<|end|>", [" 1<|end|>"]),
        ("deepseek", "User: one?\n\nAssistant:1<|end|>", ["1<|end|>"]),
        ("empty", "one?1", ["1"]),
    ],
)
def test_templates_in_words(tmp_path, name, text, answers):
    tokenizer = new_tokenizer()
    tokenizer.bos_token = None
    written, labels, data = encode(
        tmp_path, tokenizer, name, [TALK[1] | {"content": "one?"}, TALK[2]]
    )
    assert (written, labels) == (text, answers)
    if "<|end|>" in text:
        assert data.answer_end_tokens(tokenizer) == {tokenizer.eos_token_id}


def test_the_system_stands_in_the_first_question_where_the_template_has_no_place_for_it(tmp_path):
    tokenizer = new_tokenizer()
    tokenizer.bos_token = None
    text, _, _ = encode(tmp_path, tokenizer, "mistral", [TALK[0], *TALK[3:]])
    assert text == "[INST] Be brief.\n\ntwo?[/INST] 2<|end|>"


@pytest.mark.parametrize(
    "name", sorted(set(NAMED_TEMPLATES) - {"alpaca", "default", "empty", "vicuna"})
)
def test_control_tokens_that_a_tokenizer_has_not_are_refused(tmp_path, name):
    if "<" not in "".join(map(str, NAMED_TEMPLATES[name])):
        encode(tmp_path, plain(), name, TALK)
        return
    with pytest.raises(ConfigError, match=f"data.template={name}: this tokenizer has no token <"):
        encode(tmp_path, plain(), name, TALK)


def test_an_answer_that_is_written_like_a_slot_is_no_end_token(tmp_path):
    talk = [{"role": "user", "content": "{bos}"}, {"role": "assistant", "content": "{eos}"}]
    _, answers, _ = encode(tmp_path, plain(), "vicuna", talk)
    assert answers == ["{eos}<|end|>"]


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_question_that_nobody_answers_is_refused_where_a_heading_stands_below_it(tmp_path, role):
    talk = [TALK[1], {"role": role, "content": "more"}, TALK[2]]
    message = f"data.template=vicuna: the template refuses .*line 1: a turn of the {role} follows"
    with pytest.raises(ConfigError, match=message):
        encode(tmp_path, plain(), "vicuna", talk)
    assert encode(tmp_path, plain(), "empty", talk)[1] == ["1"]
    path = write_lines(tmp_path / "rows.jsonl", [{"messages": talk}, {"messages": TALK}])
    settings = Data("test", str(path), template="vicuna", on_bad_row="skip")
    assert load_dataset(settings, plain(), 256).unread["skipped_rows"] == 1


@pytest.mark.parametrize("before", [[], [TALK[0]], [TALK[3], TALK[2]]])
def test_an_answer_to_nobody_is_refused_where_its_heading_stands_below_a_question(tmp_path, before):
    talk = [*before, TALK[4]]
    speaker = before[-1]["role"] if before else ""
    message = f"a turn of the assistant follows (one of the {speaker}|none);"
    with pytest.raises(ConfigError, match=message):
        encode(tmp_path, plain(), "mistral", talk)
    asked = [TALK[1], *talk]
    assert encode(tmp_path, plain(), "empty", asked)[1][-1] == "2"
