"""Faults that were found on other people's models and adapters, each mended as a kind: its right value is the test."""

import json
import math
from array import array

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from tuneoff.config import ConfigError
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


@pytest.fixture
def prepare(settings):
    """`prepare(shape, "method=lora", …)`: (adapted model, method, experiment)."""

    def make(shape, *overrides, change=None):
        experiment, method, _ = settings(*overrides)
        model = build(shape, change)
        torch.manual_seed(4)
        return method.prepare(model), method, experiment

    return make


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


# ---------------------------------------------------------------- tied weights
@pytest.mark.parametrize("target", ["[q_proj,lm_head]", "[q_proj,embed_tokens]"])
@pytest.mark.parametrize(
    "method",
    [
        ["method=lora"],
        ["method=rslora"],
        ["method=loraplus"],
        ["method=pissa"],
        ["method=pissa", "pissa_convert=true", "save_model=true"],
    ],
)
def test_an_adapter_on_the_tied_weight_is_one_in_both_uses(prepare, tmp_path, method, target):
    model, options, experiment = prepare(LLAMA, *method, f"lora_target={target}", "lr=1e-2")
    start = logits_of(build(LLAMA))
    assert difference(logits_of(model), start) <= 1e-5  # the first loss is the base model's
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sum("lora_embedding" in name for name in trainable) == 2
    assert not any("lm_head" in name for name in trainable)
    train(model, options, experiment)
    assert difference(logits_of(model), start) > 1e-3
    assert "tied_weights" in options.facts(model)
    assert_exported(LLAMA, model, options, tmp_path)


def test_an_adapter_of_the_head_alone_merges_into_the_head_alone(settings, tmp_path):
    """One that PEFT made elsewhere, on a tied model."""
    from peft import LoraConfig, get_peft_model

    foreign = get_peft_model(build(LLAMA), LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    with torch.no_grad():
        foreign.get_output_embeddings().lora_B["default"].weight.normal_()
    foreign.save_pretrained(tmp_path / "foreign")
    _, method, _ = settings("method=lora")
    method.adapter_path = str(tmp_path / "foreign")
    model = method.prepare(build(LLAMA))
    assert difference(logits_of(model), logits_of(foreign)) <= 1e-6
    assert_exported(LLAMA, model, method, tmp_path)


def test_dora_on_the_tied_weight_is_refused(prepare):
    with pytest.raises(ConfigError, match=r"lora_target=\[q_proj,lm_head\]: names the weight that"):
        prepare(LLAMA, "method=dora", "lora_target=[q_proj,lm_head]")
    model, _, _ = prepare(UNTIED, "method=dora", "lora_target=[q_proj,lm_head]")
    assert math.isfinite(float(logits_of(model).sum()))


@pytest.mark.parametrize("shape", [LLAMA, GPT2])
@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lora", "additional_target=[{head}]"],
        ["method=lora", "additional_target=[{embeddings}]"],
        ["method=freeze", "freeze_extra_modules=[{head}]", "freeze_trainable_layers=1"],
        ["method=freeze", "freeze_extra_modules=[{embeddings}]", "freeze_trainable_layers=1"],
        ["method=galore", "galore_rank=4", "galore_target=[{head}]"],
        ["method=galore", "galore_rank=4", "galore_target=[{embeddings}]"],
        ["method=badam", "badam_include_embedding=true", "badam_switch_interval=1"],
        ["method=badam", "badam_include_lm_head=true", "badam_switch_interval=1"],
        ["method=badam_ratio", "badam_include_lm_head=true"],
        ["method=full"],
    ],
)
def test_the_tied_weight_is_one_by_whichever_name(prepare, shape, overrides):
    embeddings = "embed_tokens" if shape is LLAMA else "wte"
    words = [word.format(head="lm_head", embeddings=embeddings) for word in overrides]
    model, options, experiment = prepare(shape, *words, "lr=1e-2")
    train(model, options, experiment, steps=4)
    head = model.get_output_embeddings().weight
    assert torch.equal(head, model.get_input_embeddings().weight)
    assert not torch.equal(head, build(shape).get_output_embeddings().weight)
    assert options.facts(model)["tied_weights"].startswith("the output head and the embeddings are")


def test_nothing_is_said_of_a_tied_weight_that_stays(prepare):
    for method in ("lora", "freeze", "badam"):
        model, options, _ = prepare(LLAMA, f"method={method}")
        assert "tied_weights" not in options.facts(model)


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


def test_galores_rank_is_checked_on_one_experts_matrix(prepare):
    with pytest.raises(ConfigError, match=r"experts.down_proj is 16x12, so at most 12"):
        model, options, experiment = prepare(MIXTURE, "method=galore", "galore_rank=14")
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


# ---------------------------------------------------------------- mixtures of experts
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


# ---------------------------------------------------------------- adapters that are gone on with
@pytest.fixture
def adapter(run, tmp_path):
    """A plain LoRA of rank 4 on q_proj."""
    run(
        "method=lora",
        "lora_rank=4",
        "lora_target=[q_proj]",
        "max_steps=1",
        "save_model=true",
        folder=tmp_path / "first",
    )
    return tmp_path / "first" / "model"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["method=lora", "lora_rank=32"], "lora_rank=32: the adapter in .* has 4"),
        (["method=dora"], "use_dora=true: the adapter in .* has false"),
        (["method=rslora"], "use_rslora=true: the adapter in .* has false"),
        (["method=lora", "lora_dropout=0.3"], "lora_dropout=0.3"),
        (["method=lora", "lora_target=[v_proj]"], r"lora_target=\[v_proj\]: .* has \[q_proj\]"),
        (["method=lora", "lora_alpha=3"], "lora_alpha=3.0: the adapter in .* has 8"),
        (["method=lora", "additional_target=[norm]"], r"additional_target=\[norm\]"),
    ],
)
def test_an_adapter_that_is_gone_on_with_refuses_what_contradicts_it(
    settings, adapter, overrides, key
):
    with pytest.raises(ConfigError, match=key):
        settings(*overrides, f"adapter_path={adapter}")


def test_the_record_has_the_settings_of_the_adapter_that_is_gone_on_with(compose_config, adapter):
    from tuneoff.config import bind
    from tuneoff.jobs.work import describe_start

    config = compose_config("method=loraplus", f"adapter_path={adapter}")
    _, method = bind(config)
    recorded = describe_start(config, method, None)["config"]
    assert recorded["lora_rank"] == 4 and recorded["lora_alpha"] == 8
    assert recorded["lora_target"] == ["q_proj"] and recorded["use_dora"] is False
    assert recorded["loraplus_lr_ratio"] == 16
    new = compose_config("method=lora", f"adapter_path={adapter}", "create_new_adapter=true")
    assert describe_start(new, bind(new)[1], None)["config"]["lora_rank"] == 8


@pytest.mark.parametrize("fresh", [True, False])
def test_an_adapter_that_cannot_be_gone_on_with_is_refused_before_anything_is_loaded(
    settings, adapter, fresh
):
    words = ["method=lora", f"adapter_path={adapter}", f"create_new_adapter={fresh}"]
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match="adapter_model.safetensors is torn"):
        settings(*words)
    weights.write_bytes(whole[:5])
    with pytest.raises(ConfigError, match="adapter_model.safetensors cannot be read"):
        settings(*words)
    weights.unlink()
    with pytest.raises(ConfigError, match="holds no adapter_model.safetensors"):
        settings(*words)
    weights.write_bytes(whole)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for kind in ("IA3", "PROMPT_TUNING"):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_type": kind}))
        with pytest.raises(ConfigError, match=f"its peft_type is {kind}"):
            settings(*words)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"adapter_config.json cannot be read"):
        settings(*words)


def test_an_adapter_of_another_width_is_refused(settings, prepare, tmp_path):
    from safetensors.torch import save_file

    model, options, _ = prepare(LLAMA, "method=lora", "lora_target=[q_proj]")
    options.export(model, tmp_path, merged=False)
    with pytest.raises(ConfigError, match=r"adapter_path=.*: does not fit this model.* 64x64"):
        settings("method=lora", f"adapter_path={tmp_path}")
    # A base that is not a local folder is checked when it is there.
    experiment, method, _ = settings("method=lora")
    method.adapter_path = str(tmp_path)
    with pytest.raises(
        ConfigError, match=r"adapter_path=.*: does not fit this model: size mismatch"
    ):
        method.prepare(build({**LLAMA, "hidden_size": 32}))
    with pytest.raises(ConfigError, match="which has layers that the adapter lacks"):
        method.prepare(build({**LLAMA, "num_hidden_layers": 3}))
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="which has layers that the adapter lacks"):
        method.prepare(build(LLAMA))


def test_a_new_adapter_on_a_merged_one_saves_what_it_applies_to(prepare, settings, tmp_path):
    model, options, experiment = prepare(LLAMA, "method=lora", "lr=1e-2")
    train(model, options, experiment)
    options.export(model, tmp_path / "old", merged=False)
    _, second, _ = settings("method=lora")
    second.adapter_path = str(tmp_path / "old")
    second.create_new_adapter = True
    model = second.prepare(build(LLAMA))
    train(model, second, experiment)
    assert_exported(LLAMA, model, second, tmp_path)


def test_a_merge_that_changes_the_model_is_a_warning_of_the_closing_table(
    prepare, tmp_path, monkeypatch
):
    from tuneoff.cli.summary import format_run_summary
    from tuneoff.methods import _lora_export

    model, options, experiment = prepare(LLAMA, "method=lora", "lora_target=[lm_head]", "lr=1e-1")
    train(model, options, experiment)
    assert "warnings" not in options.export(model, tmp_path / "right", merged=True)
    model, options, experiment = prepare(LLAMA, "method=lora", "lora_target=[lm_head]", "lr=1e-1")
    train(model, options, experiment)
    monkeypatch.setattr(_lora_export, "merge_adapter", lambda model: model.merge_and_unload())
    facts = options.export(model, tmp_path / "twice", merged=True)
    result = {
        "method": "lora",
        "status": "finished",
        "parameters": {},
        "loss": {"initial": 1.0, "final": 0.5},
        "metrics": {},
        "throughput": {},
        "memory": {"peak_gib": {}},
        "facts": {**options.facts(build(UNTIED)), **facts, "covered_share": 0.25},
        "config": {"lr": 3e-3},
        "lr_source": "default",
    }
    table = format_run_summary(result, tmp_path)
    assert "warning          the merged model's logits differ from the trained ones by" in table
    assert "covered          25.00 % of the model's weights" in table
    assert "learning rate    0.003 (the method's default, not tuned on this problem)" in table


# ---------------------------------------------------------------- weight decay
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
