"""Mixtures of experts: what reaches the experts does, and what cannot says so."""

import pytest
import torch
from adapted_models import LLAMA, MIXTURE, UNTIED, assert_exported, difference, train

from tuneoff.config import ConfigError


def test_galores_rank_is_checked_on_one_experts_matrix(prepare):
    with pytest.raises(ConfigError, match=r"experts.down_proj is 16x12, so at most 12"):
        model, options, experiment = prepare(MIXTURE, "method=galore", "galore_rank=14")
        options.make_optimizer(model, experiment)


def test_lora_reaches_experts_and_says_its_coverage(prepare, tmp_path):
    model, options, experiment = prepare(MIXTURE, "method=lora", "lr=1e-2")
    train(model, options, experiment)
    moved = {name for name, weight in model.named_parameters() if "lora_B" in name and weight.any()}
    # q, k, v, o twice; gate_up and down of the experts; gate, up and down of the dense layer
    assert len(moved) == 2 * 4 + 2 + 3
    share = options.coverage(model)
    galore, galore_options, galore_experiment = prepare(MIXTURE, "method=galore", "galore_rank=4")
    assert share == pytest.approx(galore_options.coverage(galore))
    projected = 0
    for group in galore_options.make_optimizer(galore, galore_experiment).param_groups:
        if "rank" in group:
            projected += sum(weight.numel() for weight in group["params"])
    assert share == pytest.approx(projected / galore.num_parameters())
    assert 0.6 < share < 1
    assert_exported(MIXTURE, model, options, tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [["method=dora"], ["method=pissa", "lora_rank=4"], ["method=lora", "lora_dropout=0.1"]],
)
def test_what_cannot_reach_experts_leaves_them_out_and_says_so(prepare, overrides):
    model, options, experiment = prepare(MIXTURE, *overrides)
    left_out = options.facts(model)["not_adapted"]
    assert "model.layers.*.mlp.experts.gate_up_proj" in left_out
    train(model, options, experiment, steps=1)
    whole, whole_options, _ = prepare(MIXTURE, "method=lora")
    assert options.coverage(model) < whole_options.coverage(whole)
    with pytest.raises(
        ConfigError, match=r"lora_target=\[experts\]: .*experts.* cannot be adapted"
    ):
        prepare(MIXTURE, *overrides, "lora_target=[experts]")


def test_coverage_is_the_same_figure_for_every_method(prepare):
    shares = {}
    for method in ("full", "freeze", "lora", "galore", "badam", "badam_ratio"):
        extra = ["galore_rank=4"] if method == "galore" else []
        model, options, experiment = prepare(UNTIED, f"method={method}", *extra)
        options.make_optimizer(model, experiment)  # BAdam's freezes all but its block
        shares[method] = options.facts(model)["covered_share"]
    body = 2 * (4 * 16 * 16 + 3 * 16 * 24)
    total = body + 2 * 64 * 16 + 5 * 16
    assert shares["full"] == 1
    assert shares["lora"] == shares["galore"] == pytest.approx(body / total)
    assert shares["freeze"] == shares["badam"] == pytest.approx((body + 4 * 16) / total)
    assert shares["badam_ratio"] == pytest.approx((body + 5 * 16) / total)


@pytest.mark.parametrize("kind", ["std", "reverse_std", "right", "left", "full"])
def test_galore_projects_each_experts_matrix(kind):
    """Experts in one parameter train as the same matrices do in parameters of their own."""
    from galore_torch import GaLoreAdamW

    from tuneoff.config import Optimizer
    from tuneoff.methods._galore_optimizers import choose_class

    torch.manual_seed(0)
    settings = {"rank": 4, "update_proj_gap": 2, "scale": 0.25, "proj_type": kind}
    for rows, columns in ((12, 7), (7, 12)):
        start = torch.randn(3, rows, columns)
        stack = torch.nn.Parameter(start.clone())
        flat = torch.nn.Parameter(start.clone().flatten(0, 1))
        alone = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        ours = choose_class(Optimizer.adamw, False)(
            [{"params": [stack, flat], "experts": 3, **settings}],
            lr=1e-2,
            no_deprecation_warning=True,
        )
        reference = GaLoreAdamW(
            [{"params": alone, **settings}], lr=1e-2, no_deprecation_warning=True
        )
        for step in range(5):
            gradient = torch.randn(3, rows, columns)
            stack.grad = gradient.clone()
            flat.grad = gradient.clone().flatten(0, 1)
            for parameter, part in zip(alone, gradient, strict=True):
                parameter.grad = part.clone()
            ours.step()
            reference.step()
            if step == 2:
                ours.load_state_dict(ours.state_dict())
        expected = torch.stack([parameter.detach() for parameter in alone])
        # A wrong projection is off by a step's 1e-2; Adam makes more of roundings than they were.
        assert difference(stack.detach(), expected) <= 5e-5
        assert difference(flat.detach().view_as(expected), expected) <= 5e-5


@pytest.mark.parametrize("method", ["full", "badam", "badam_ratio", "galore", "freeze"])
def test_stacked_biases_of_experts_get_no_weight_decay(prepare, method):
    """gpt-oss keeps the biases of its experts in one matrix."""
    shape = {
        **LLAMA,
        "model_type": "gpt_oss",
        "tie_word_embeddings": False,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention", "full_attention"],
    }
    more = ["galore_rank=2"] if method == "galore" else []
    model, options, experiment = prepare(shape, f"method={method}", "weight_decay=0.1", *more)
    optimizer = options.make_optimizer(model, experiment)
    base = getattr(optimizer, "base_optimizer", optimizer)
    decayed = []
    for group in base.param_groups:
        if group["weight_decay"]:
            decayed += [tuple(weight.shape) for weight in group["params"]]
    weights = dict(model.named_parameters())
    stacked = weights["model.layers.1.mlp.experts.gate_up_proj_bias"]
    assert stacked.ndim == 2 and decayed and tuple(stacked.shape) not in decayed
