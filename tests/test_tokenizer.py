"""Token ids that do not come from the data: the model has an embedding for each of them."""

import pytest
import torch
from helpers import TINY
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuneoff.config import ConfigError, Model
from tuneoff.models.tokenizer import load_tokenizer

IDS = torch.arange(1, 33).reshape(2, 16)
ANSWERS = ["exact_match=whole", "exact_match_limit=4", "max_new_tokens=4"]


@pytest.fixture
def with_tokens(debug_model, tmp_path):
    """`with_tokens({"pad_token": "[PAD]"})`: the small Llama with special tokens that it has no embedding for."""

    def make(tokens, extra=()):
        folder = tmp_path / "added"
        AutoModelForCausalLM.from_pretrained(debug_model).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        tokenizer.add_special_tokens(tokens)
        tokenizer.add_tokens(list(extra))
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("method", ["full", "lora"])
def test_padding_beyond_the_embeddings_is_not_used(run, with_tokens, tmp_path, method):
    folder = with_tokens({"pad_token": "[PAD]"})
    result = run(f"method={method}", f"model.path={folder}", "save_model=true", *ANSWERS)
    assert result["status"] == "finished", result["error"]
    exported = tmp_path / "run" / "model"
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert len(tokenizer) == 4096 and tokenizer.pad_token_id == 0
    kind = AutoPeftModelForCausalLM if method == "lora" else AutoModelForCausalLM
    with torch.no_grad():
        assert kind.from_pretrained(exported)(input_ids=IDS).logits.shape == (2, 16, 4096)


def test_the_same_run_as_with_padding_that_is_there(run, with_tokens, debug_model, tmp_path):
    folder = with_tokens({"pad_token": "[PAD]"})
    losses = [
        run("method=full", f"model.path={path}", folder=tmp_path / name)["loss"]
        for name, path in (("added", folder), ("plain", debug_model))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"pad_token": "[PAD]"}, 0),  # the end token
        ({"pad_token": "[PAD]", "eos_token": "[END]"}, 0),  # the one that begins a text
        ({"pad_token": "[A]", "eos_token": "[B]", "bos_token": "[C]", "unk_token": "[D]"}, 0),
        ({}, 0),
    ],
)
def test_padding_is_a_token_that_the_model_has(with_tokens, tokens, expected):
    tokenizer = load_tokenizer(Model("added", str(with_tokens(tokens))))
    assert tokenizer.pad_token_id == expected
    assert "[PAD]" not in tokenizer.get_vocab()


def test_a_tokenizer_without_any_special_token_pads(with_tokens, tmp_path):
    folder = with_tokens({})
    plain = AutoTokenizer.from_pretrained(TINY)
    plain.eos_token = plain.bos_token = plain.pad_token = None
    plain.save_pretrained(folder)
    assert load_tokenizer(Model("plain", str(folder))).pad_token_id == 0


def test_an_end_token_beyond_the_embeddings_is_refused_where_data_get_it(run, with_tokens):
    folder = with_tokens({"eos_token": "[END]"})
    with pytest.raises(ConfigError, match="gives token 4096, and the model has 4096"):
        run("method=full", f"model.path={folder}")
