"""Small models of several architectures, trained for a few steps by a method, and what holds for their exports."""

from array import array

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from tuneoff.data import Row, collate
from tuneoff.training.step import train_step

IDS = torch.arange(1, 33).reshape(2, 16)


LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}


UNTIED = {**LLAMA, "tie_word_embeddings": False}


GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}


MIXTURE = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "moe_intermediate_size": 12,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [0],  # a dense layer, whose names PEFT takes for experts
}


MAMBA = {
    "model_type": "mamba",
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "time_step_rank": 4,
}


def build(shape, change=None):
    """A model of a shape, always the same weights."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    if change:
        with torch.no_grad():
            change(model)
    return model.eval()


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def difference(one, other):
    return float((one - other).abs().max())


def train(model, method, experiment, steps=3):
    """Train on rows of random tokens; returns the optimizer."""
    optimizer = method.make_optimizer(model.train(), experiment)
    rows = [Row(array("i", range(20, 20 + size)), ((3, size),)) for size in (12, 9)]
    batch = collate(rows, 0)
    for _ in range(steps):
        train_step(model, optimizer, [batch], batch.label_tokens)
    return optimizer


def assert_exported(shape, model, method, folder, tolerance=1e-5):
    """What is saved gives the trained logits again: the adapter on its base, and the merged model."""
    build(shape).save_pretrained(folder / "untouched")
    trained = logits_of(model)
    facts = method.export(model, folder / "model", merged=True)
    base = folder / "model" / "base"
    untouched = base if base.exists() else folder / "untouched"
    reloaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(untouched), folder / "model"
    )
    merged = AutoModelForCausalLM.from_pretrained(folder / "model" / "merged")
    assert difference(logits_of(reloaded), trained) <= tolerance
    assert difference(logits_of(merged), trained) <= tolerance
    assert facts["merged_logits_difference"] <= tolerance
