"""Which matrices a model has, found through the model itself, and which share of its weights a method covers."""

import re

import pytest
import torch
from shrunk_models import shrunk_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tuneoff.config import ConfigError
from tuneoff.models.bypassed_layers import find_bypassed_layers, generalise_path
from tuneoff.models.layers import (
    computes_linear,
    count_all_weights,
    find_decoder_layers,
    find_experts,
    find_targets,
    share_of_weights,
    shorten_names,
)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
QWEN_MOE = {
    **SIZES,
    "num_experts": 4,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
}


def on_meta(kind, **sizes):
    """The architecture without any memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        (
            "mixtral",
            {**SIZES, "num_local_experts": 4},
            {
                "mlp.experts.gate_up_proj": (4, (48, 16)),
                "mlp.experts.down_proj": (4, (16, 24)),
            },
        ),
        (
            "qwen2_moe",
            QWEN_MOE,
            {
                "mlp.experts.gate_up_proj": (4, (24, 16)),
                "mlp.experts.down_proj": (4, (16, 12)),
            },
        ),
        (
            "olmoe",
            {**SIZES, "num_experts": 4},
            {
                "mlp.experts.gate_up_proj": (4, (48, 16)),
                "mlp.experts.down_proj": (4, (16, 24)),
            },
        ),
        (
            "gpt_oss",  # (experts, in, out), with biases that are no matrices
            {**SIZES, "num_local_experts": 4},
            {
                "mlp.experts.gate_up_proj": (4, (16, 48)),
                "mlp.experts.down_proj": (4, (24, 16)),
            },
        ),
        (
            "llama4_text",
            {**SIZES, "num_local_experts": 4, "interleave_moe_layer_step": 1},
            {
                "feed_forward.experts.gate_up_proj": (4, (16, 48)),
                "feed_forward.experts.down_proj": (4, (24, 16)),
            },
        ),
        (
            "granitemoe",
            {**SIZES, "num_local_experts": 4},
            {
                "block_sparse_moe.experts.gate_up_proj": (4, (48, 16)),
                "block_sparse_moe.experts.down_proj": (4, (16, 24)),
            },
        ),
    ],
)
def test_the_experts_of_a_mixture_are_found(kind, sizes, expected):
    model = on_meta(kind, **sizes)
    prefix, layers = find_decoder_layers(model)
    assert len(layers) == 2
    found = {
        path: (stack.experts, stack.matrix_shape) for path, stack in find_experts(model).items()
    }
    assert found == {
        f"{prefix}.{layer}.{name}": shape for layer in range(2) for name, shape in expected.items()
    }


def test_experts_that_lie_one_below_the_other_are_a_stack_too():
    """As in DBRX."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.moe_num_experts = 4
            self.w1 = nn.Parameter(torch.empty(4 * 6, 8))
            self.bias = nn.Parameter(torch.empty(4, 8))
            self.scale = nn.Parameter(torch.empty(4))

    ((path, stack),) = find_experts(nn.ModuleDict({"mlp": Experts()})).items()
    assert path == "mlp.w1" and stack.experts == 4 and stack.matrix_shape == (6, 8)


@pytest.mark.parametrize(("kind", "sizes"), [("llama", SIZES), ("mamba", {"vocab_size": 64})])
def test_a_dense_model_has_no_experts(kind, sizes):
    assert not find_experts(on_meta(kind, **sizes))


@pytest.mark.parametrize(
    ("wanted", "linears", "experts"),
    [
        (["all"], {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
        (["q_proj"], {"q_proj"}, set()),
        (["experts"], set(), {"gate_up_proj", "down_proj"}),
        (["mlp.experts.down_proj", "v_proj"], {"v_proj"}, {"down_proj"}),
    ],
)
def test_targets_are_linear_layers_and_experts(wanted, linears, experts):
    model = on_meta("olmoe", **SIZES, num_experts=4)
    targets = find_targets(model, wanted, "lora_target")
    leaves = {path.rpartition(".")[2] for path in targets.linears} - {"gate"}
    assert leaves == linears
    assert {path.rpartition(".")[2] for path in targets.experts} == experts
    assert targets.parameter_names() <= {name for name, _ in model.named_parameters()}


def test_an_unknown_target_is_refused_with_the_names_there_are():
    model = on_meta("olmoe", **SIZES, num_experts=4)
    with pytest.raises(
        ConfigError, match="lora_target=down_prj: no such linear layer; .*down_proj"
    ):
        find_targets(model, ["down_prj"], "lora_target")


def test_a_model_without_a_list_of_layers_is_refused_in_a_line():
    with pytest.raises(ConfigError, match="model.path=Linear: has no list of decoder layers"):
        find_decoder_layers(nn.Linear(2, 2))


def test_last_segments_stand_for_paths_only_where_they_mean_the_same():
    existing = ["a.q", "b.q", "a.v", "b.v"]
    assert shorten_names(["a.q", "b.q"], existing) == ["q"]
    assert shorten_names(["a.q"], existing) == ["a.q"]


def test_the_share_counts_a_tied_weight_once_and_leaves_out_what_was_added():
    model = on_meta("llama", **SIZES, tie_word_embeddings=True)
    total = count_all_weights(model)
    assert share_of_weights(model, {name for name, _ in model.named_parameters()}) == 1.0
    assert share_of_weights(model, set()) == 0.0
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert share_of_weights(model, {name}) == 64 * 16 / total
    model.added = nn.Linear(100, 100)
    assert share_of_weights(model, {"lm_head.weight"}, {"added.weight", "added.bias"}) == (
        64 * 16 / total
    )


def test_a_router_that_is_linear_by_class_alone_is_told_apart():
    sizes = {**SIZES, "num_local_experts": 4, "interleave_moe_layer_step": 1}
    model = on_meta("llama4_text", **sizes)
    for path, layer in find_targets(model, ["all"], "lora_target").linears.items():
        assert computes_linear(layer) == (not path.endswith(".router")), path
    assert computes_linear(next(iter(find_targets(on_meta("gpt2"), ["all"], "").linears.values())))


# ---------------------------------------------------------------- weights that a model uses by itself
@pytest.mark.parametrize(
    ("model_type", "bypassed"),
    [
        ("mamba", {"backbone.layers.*.mixer.dt_proj"}),
        ("falcon_mamba", {"backbone.layers.*.mixer.dt_proj"}),
        ("jamba", {"model.layers.*.mamba.dt_proj"}),
        ("longcat_flash", {"model.layers.*.mlp.router.classifier"}),
        ("llama", set()),
        ("gpt2", set()),
        ("qwen2_moe", set()),
        ("deepseek_v3", set()),
        ("mamba2", set()),
    ],
)
def test_layers_whose_weight_is_used_without_their_forward_pass(model_type, bypassed):
    """An adapter on one of them would do nothing."""
    with torch.device("meta"):
        model = shrunk_model(model_type)
    paths = find_bypassed_layers(model)
    assert {generalise_path(path) for path in paths} == bypassed
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_a_tied_head_is_not_bypassed_by_its_embeddings():
    assert not find_bypassed_layers(on_meta("llama", **SIZES, tie_word_embeddings=True))


# ---------------------------------------------------------------- models with more than words
@pytest.mark.parametrize("model_type", ["got_ocr2", "phi4_multimodal", "fuyu", "bart", "llama"])
def test_decoder_layers_are_those_that_read_text(model_type):
    """Shrunk, GOT-OCR2's image tower is the larger part; no row of text goes through it."""
    with torch.device("meta"):
        model = shrunk_model(model_type)
    path, layers = find_decoder_layers(model)
    assert not {"vision", "image", "audio"} & set(re.split(r"[._]", path))
    assert model.get_submodule(path) is layers
    assert len(layers) == 2


def test_one_shared_expert_makes_no_stack_of_every_matrix():
    with torch.device("meta"):
        stacks = find_experts(shrunk_model("inkling_text"))
    assert "model.layers.1.mlp.gate.weight" not in stacks
    assert stacks["model.layers.1.mlp.shared_experts.gate_proj"].experts == 1
