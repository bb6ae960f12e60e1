"""Unusual layers: narrow matrices, zero rows, what PEFT refuses, weights without a gradient; and options that switch others off."""

import pytest
import torch
from adapted_models import (
    LLAMA,
    MAMBA,
    UNTIED,
    assert_exported,
    build,
    difference,
    logits_of,
    train,
)
from peft import PeftModel
from shrunk_models import shrunk_model

from tuneoff.config import ConfigError
from tuneoff.methods._lora_renamed import RENAMED, find_renamed_layers
from tuneoff.methods._lora_targets import choose_targets


# ---------------------------------------------------------------- ranks
@pytest.mark.parametrize(
    ("method", "key"), [("pissa", "lora"), ("galore", "galore"), ("galore_layerwise", "galore")]
)
def test_a_rank_that_a_matrix_cannot_give_names_it_and_what_can(prepare, method, key):
    shape = {**LLAMA, "num_key_value_heads": 1}
    sentence = (
        rf"{key}_rank=12: model\.layers\.0\.self_attn\.k_proj\.weight is 8x16, so at most 8; "
        rf"{key}_target=\[down_proj,gate_proj,o_proj,q_proj,up_proj\] leaves it out"
    )
    with pytest.raises(ConfigError, match=sentence):
        model, options, experiment = prepare(shape, f"method={method}", f"{key}_rank=12")
        options.make_optimizer(model, experiment)
    rest = f"{key}_target=[down_proj,gate_proj,o_proj,q_proj,up_proj]"
    model, options, experiment = prepare(shape, f"method={method}", f"{key}_rank=12", rest)
    options.make_optimizer(model, experiment)


# ---------------------------------------------------------------- zero rows under DoRA
def zero_rows(model):
    model.model.layers[1].self_attn.o_proj.weight[5:9] = 0


def test_dora_is_the_base_model_on_zero_rows_and_trains_them(prepare, tmp_path):
    model, options, experiment = prepare(UNTIED, "method=dora", "lr=1e-2", change=zero_rows)
    assert difference(logits_of(model), logits_of(build(UNTIED, zero_rows))) <= 1e-6
    layer = model.base_model.model.model.layers[1].self_attn.o_proj
    train(model, options, experiment)
    magnitude = layer.lora_magnitude_vector["default"].weight
    assert torch.isfinite(logits_of(model)).all() and magnitude[5:9].abs().min() > 0
    trained = logits_of(model)
    options.export(model, tmp_path, merged=False)
    reloaded = PeftModel.from_pretrained(build(UNTIED, zero_rows), tmp_path)
    assert difference(logits_of(reloaded), trained) <= 1e-5


# ---------------------------------------------------------------- what PEFT refuses
def test_all_leaves_out_what_peft_refuses_and_says_so(prepare):
    model, options, experiment = prepare(MAMBA, "method=lora")
    left_out = options.facts(model)["not_adapted"]
    assert left_out.keys() == {
        "backbone.layers.*.mixer.out_proj",
        "backbone.layers.*.mixer.dt_proj",
    }
    train(model, options, experiment, steps=1)
    with pytest.raises(
        ConfigError, match=r"lora_target=\[out_proj\]: .*out_proj cannot be adapted"
    ):
        prepare(MAMBA, "method=lora", "lora_target=[out_proj]")


@pytest.mark.parametrize(("method", "key"), [("pissa", "lora_target"), ("vera", "peft_target")])
def test_no_adapter_is_put_where_it_would_do_nothing(prepare, method, key):
    """Mamba multiplies by dt_proj's weight itself: PiSSA's part of it would be lost, and the model another one."""
    model, options, _ = prepare(MAMBA, f"method={method}")
    assert difference(logits_of(model), logits_of(build(MAMBA))) < 1e-5
    assert not any(
        "dt_proj" in name and weight.requires_grad for name, weight in model.named_parameters()
    )
    with pytest.raises(
        ConfigError, match=rf"{key}=\[dt_proj\]: .*dt_proj cannot be adapted: the model uses"
    ):
        prepare(MAMBA, f"method={method}", f"{key}=[dt_proj]")


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_what_trains_in_full_has_no_adapter_too(prepare, tmp_path, method):
    model, options, experiment = prepare(
        UNTIED, f"method={method}", "additional_target=[q_proj]", "lr=1e-2"
    )
    left_out = options.facts(model)["not_adapted"]
    assert left_out == {"model.layers.*.self_attn.q_proj": "additional_target trains it in full"}
    assert not any("q_proj" in name and "lora_" in name for name, _ in model.named_parameters())
    train(model, options, experiment)
    assert_exported(UNTIED, model, options, tmp_path)
    with pytest.raises(ConfigError, match=r"lora_target=\[q_proj\]: .* trains it in full"):
        prepare(UNTIED, f"method={method}", "additional_target=[q_proj]", "lora_target=[q_proj]")


# ---------------------------------------------------------------- a weight without a gradient
@pytest.mark.parametrize("method", ["badam", "badam_ratio"])
def test_badam_skips_a_weight_without_a_gradient(prepare, method):
    def add_unused(model):
        for layer in model.model.layers:
            layer.unused = torch.nn.Linear(4, 4)

    model, options, experiment = prepare(
        UNTIED, f"method={method}", "badam_switch_interval=1", change=add_unused
    )
    before = model.model.layers[0].unused.weight.clone()
    used = model.model.layers[0].self_attn.q_proj.weight.clone()
    train(model, options, experiment)
    assert torch.equal(model.model.layers[0].unused.weight, before)
    assert not torch.equal(model.model.layers[0].self_attn.q_proj.weight, used)


# ---------------------------------------------------------------- options that others switch off
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=lora", "pissa_iter=4"], "pissa_iter=4: needs pissa_init=true"),
        (
            ["method=lora", "loraplus_lr_embedding=1e-3"],
            "loraplus_lr_embedding=0.001: needs loraplus_lr_ratio",
        ),
        (["method=badam", "badam_update_ratio=0.1"], "needs badam_mode=ratio"),
        (["method=badam", "badam_mask_mode=scatter"], "needs badam_mode=ratio"),
        (["method=badam_ratio", "badam_start_block=1"], "needs badam_mode=layer"),
        (["method=badam_ratio", "badam_switch_mode=random"], "needs badam_mode=layer"),
        (["method=badam_ratio", "badam_verbose=1"], "needs badam_mode=layer"),
    ],
)
def test_an_option_that_another_switches_off_is_refused(settings, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        settings(*overrides)


def test_an_option_that_was_written_is_refused_at_its_default_too(compose_config):
    from tuneoff.config import bind

    config = compose_config("method=badam", "badam_update_ratio=0.05")
    bind(config)
    with pytest.raises(ConfigError, match=r"badam_update_ratio=0.05: needs badam_mode=ratio"):
        bind(config, ["method", "badam_update_ratio"])


def test_all_leaves_out_a_layer_whose_adapter_peft_would_not_find_again():
    """The list of older names that transformers has for laguna has a pattern that fits a name of today."""
    model = shrunk_model("laguna")
    chosen = choose_targets(model, ["all"], None)
    shared = {path for path, reason in chosen.left_out.items() if reason == RENAMED}
    assert shared and all(".shared_experts." in path for path in shared)
    assert not [path for path in chosen.modules if "shared_experts" in path]
    with pytest.raises(
        ConfigError, match="cannot be adapted: PEFT takes its name for one of an older"
    ):
        choose_targets(model, ["shared_experts.gate_proj"], None)
    assert not find_renamed_layers(build(LLAMA), ["model.layers.0.self_attn.q_proj"])
