"""Batched greedy answers are those of one row at a time, and the model is left as it was."""

import copy
import logging
import warnings

import pytest
import torch
from helpers import TINY
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tuneoff.config import Model
from tuneoff.models.tokenizer import load_tokenizer
from tuneoff.training.generate import generate_answers

WIDTH = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES = {
    "llama": WIDTH,
    "qwen2": WIDTH,
    "qwen3": {**WIDTH, "head_dim": 16},
    "gemma2": {**WIDTH, "head_dim": 16, "sliding_window": 8},  # narrower than prompt and answer
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 64,
    },
}
PROMPTS = [[1, 2], list(range(50, 75)), [7], list(range(9, 19))]
SAMPLING = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "num_beams": 3,
    "max_length": 20,
    "min_new_tokens": 9,
}


def small(kind: str):
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        kind, **SHAPES[kind], vocab_size=4096, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # random models of the usual size say one word for ever
    return model


def alone(model, prompt: list[int], ends: list[int], most: int) -> list[int]:
    """Transformers' own answer to one prompt, unpadded; without the token that ended it."""
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=most, eos_token_id=ends, pad_token_id=0
    )
    found = (
        model.eval()
        .generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :]
        .tolist()
    )
    return found[:-1] if found[-1] in ends else found


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "adapter"])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_batch_says_what_each_row_says_alone(tokenizer, caplog, monkeypatch, kind, wrapped):
    model = small(kind)
    plain = copy.deepcopy(model)
    third = alone(plain, PROMPTS[1], [0], 12)[2]
    model.generation_config = own = GenerationConfig(**SAMPLING, eos_token_id=[0, third])
    if wrapped:
        model = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
        )
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        answers = generate_answers(model.train(), tokenizer, PROMPTS, 12)
    assert not caplog.records
    assert [answer.ids for answer in answers] == [
        alone(plain, prompt, [0, third], 12) for prompt in PROMPTS
    ]
    assert answers[1].ended and len(answers[1].ids) <= 2
    assert not answers[0].ended and len(set(answers[0].ids)) > 2
    assert model.training and model.generation_config is own and own.do_sample


def test_a_tokenizer_without_padding_is_no_hindrance(tokenizer, tmp_path):
    small("llama").config.save_pretrained(tmp_path)
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    model = small("llama")
    answers = generate_answers(model, load_tokenizer(Model("debug", str(tmp_path))), PROMPTS, 6)
    assert [answer.ids for answer in answers] == [
        alone(model, prompt, [0], 6) for prompt in PROMPTS
    ]


def test_an_end_that_only_the_data_knows(tokenizer):
    model = small("llama")
    whole = generate_answers(model, tokenizer, PROMPTS, 12)[1].ids
    answers = generate_answers(model, tokenizer, PROMPTS, 12, also_ends={whole[3]})
    assert answers[1] == (whole[: whole.index(whole[3])], True)


def test_the_cache_is_used_whatever_the_models_config_says(tokenizer):
    model = small("llama")
    model.config.use_cache = model.generation_config.use_cache = False
    lengths = []
    model.get_input_embeddings().register_forward_hook(
        lambda layer, inputs, output: lengths.append(output.shape[1])
    )
    generate_answers(model, tokenizer, PROMPTS, 4)
    assert lengths == [25, 1, 1, 1]
    assert not (model.config.use_cache or model.generation_config.use_cache)
