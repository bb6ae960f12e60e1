"""Nothing is Llama's alone: every method trains small models of other architectures."""

from array import array

import pytest
import torch
from helpers import METHODS, quick_of
from transformers import AutoConfig, AutoModelForCausalLM

from tuneoff.data import Row, collate
from tuneoff.models.layers import find_decoder_layers, find_linear_layers, has_tied_head
from tuneoff.models.loading import load_model
from tuneoff.training.step import train_step

SMALL = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


GROUPED = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 1}


WIDE = {**GROUPED, "head_dim": 8}


# name -> (shape, linear layers of a decoder layer)
ARCHITECTURES: dict = {
    "llama": ({"model_type": "llama", **GROUPED, "tie_word_embeddings": True}, 7),
    "qwen2": (
        {"model_type": "qwen2", **GROUPED, "tie_word_embeddings": False},
        7,
    ),  # biases on queries, keys, values
    "qwen3": (
        {"model_type": "qwen3", **WIDE, "tie_word_embeddings": True},
        7,
    ),  # norms on queries and keys
    "gemma2": ({"model_type": "gemma2", **WIDE}, 7),  # no sdpa, capped logits
    "gemma3": ({"model_type": "gemma3_text", **WIDE}, 7),
    "gpt2": (
        {
            "model_type": "gpt2",
            "vocab_size": 300,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 2,
            "n_positions": 64,
        },
        4,
    ),
    "opt": ({"model_type": "opt", **SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}, 6),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_head_and_embeddings_are_found_through_the_model(architecture):
    shape, linears = ARCHITECTURES[architecture]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    path, layers = find_decoder_layers(model)
    assert len(layers) == 3 and model.get_submodule(path) is layers
    found = find_linear_layers(model, ["all"], "any")
    assert len(found) == 3 * linears and model.get_output_embeddings() not in found.values()
    assert has_tied_head(model) == (architecture != "qwen2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", quick_of(METHODS, "full", "lora", "badam"))
def test_every_method_trains_every_architecture(settings, architecture, method):
    """Three steps on padded rows: what may train has moved, nothing else has, and the loss is lower."""
    experiment, chosen, _ = settings(
        f"method={method}",
        "lr=1e-2",
        "model.pretrained=false",
        *(["galore_rank=4"] if "galore" in method else []),
        *(["badam_switch_interval=1"] if "badam" in method else []),
    )
    experiment.model.path, experiment.model.config = None, dict(ARCHITECTURES[architecture][0])
    torch.manual_seed(0)
    model = chosen.prepare(load_model(experiment)).train()
    optimizer = chosen.make_optimizer(model, experiment)
    ever, before = (
        chosen.ever_trained(model, optimizer),
        {n: p.detach().clone() for n, p in model.named_parameters()},
    )
    rows = [Row(array("i", range(20, 20 + size)), ((3, size),)) for size in (12, 9)]
    batch = collate(rows, 0)
    losses = [
        float(train_step(model, optimizer, [batch], batch.label_tokens).loss) for _ in range(3)
    ]
    moved = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert losses[2] < losses[0] and moved <= ever
    matrices = {name for name in ever if before[name].ndim > 1 and "lora_A" not in name}
    assert matrices <= moved  # in BAdam's three steps each of the three layers had its turn
    head = model.get_output_embeddings().weight
    trains_outside = method in ("full", "galore", "galore_layerwise")
    assert (
        any(parameter is head for name, parameter in model.named_parameters() if name in moved)
        == trains_outside
    )
