"""What METHODS.md says of the options, and the traps it names: each is a test that the trap is not inherited."""

import pytest
import torch
from helpers import METHODS, quick_of
from transformers import AutoModelForCausalLM

from tuneoff.config import ConfigError


@pytest.fixture
def prepared(settings):
    """`prepared(folder, "method=freeze", …)`: (model as the method prepared it, method, experiment)."""

    def make(folder, *overrides):
        experiment, method, _ = settings(*overrides)
        torch.manual_seed(0)
        return (
            method.prepare(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)),
            method,
            experiment,
        )

    return make


def opened(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# ---------------------------------------------------------------- freeze
@pytest.mark.parametrize(("layers", "expected"), [(1, {2}), (2, {1, 2}), (-1, {0}), (3, {0, 1, 2})])
def test_freeze_opens_the_last_or_the_first_layers(prepared, debug_model, layers, expected):
    model, _, _ = prepared(debug_model, "method=freeze", f"freeze_trainable_layers={layers}")
    assert {int(name.split(".")[2]) for name in opened(model)} == expected


@pytest.mark.parametrize(
    ("modules", "count"),
    [
        ("[mlp]", 3),
        ("[q_proj]", 1),
        ("[self_attn.q_proj,mlp.up_proj]", 2),
        ("'q_proj,v_proj'", 2),
        ("all", 9),
    ],
)
def test_freeze_opens_names_at_any_depth(prepared, debug_model, modules, count):
    model, _, _ = prepared(
        debug_model,
        "method=freeze",
        "freeze_trainable_layers=1",
        f"freeze_trainable_modules={modules}",
    )
    assert len(opened(model)) == count


def test_freeze_extra_modules_are_whole_segments_outside_the_layers(prepared, debug_model):
    model, _, _ = prepared(
        debug_model, "method=freeze", "freeze_trainable_layers=1", "freeze_extra_modules=[norm]"
    )
    extra = {name for name in opened(model) if ".layers." not in name}
    assert extra == {"model.norm.weight"}
    assert not any("layers.0" in name or "layers.1" in name for name in opened(model))


def test_freeze_says_that_a_tied_head_opens_the_embeddings(prepared, debug_model, untied_model):
    model, method, _ = prepared(debug_model, "method=freeze", "freeze_extra_modules=[lm_head]")
    assert "model.embed_tokens.weight" in opened(model) and "tied_weights" in method.facts(model)
    model, method, _ = prepared(untied_model, "method=freeze", "freeze_extra_modules=[lm_head]")
    assert "lm_head.weight" in opened(model) and "model.embed_tokens.weight" not in opened(model)
    assert "tied_weights" not in method.facts(model)


@pytest.mark.parametrize(
    "option",
    [
        "freeze_trainable_layers=4",
        "freeze_trainable_modules=[no_such]",
        "freeze_trainable_modules=[proj]",
        "freeze_extra_modules=[layers]",
        "freeze_extra_modules=[q_proj]",
    ],
)
def test_freeze_refuses_what_is_not_there(prepared, debug_model, option):
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        prepared(debug_model, "method=freeze", option)


# ---------------------------------------------------------------- LoRA
def test_lora_alpha_is_twice_the_rank_unless_given(prepared, debug_model):
    for given, expected in (("lora_alpha=null", 2.0), ("lora_alpha=4", 0.5)):
        model, _, _ = prepared(debug_model, "method=lora", "lora_rank=8", given)
        assert (
            model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == expected
        )


def test_rslora_scales_by_the_root_of_the_rank(prepared, debug_model):
    model, _, _ = prepared(debug_model, "method=rslora", "lora_rank=4", "lora_alpha=8")
    assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == 4.0


def test_all_means_every_linear_layer_but_the_head(prepared, untied_model):
    model, _, _ = prepared(untied_model, "method=lora")
    assert len({name.split(".lora_")[0] for name in opened(model)}) == 3 * 7
    model, _, _ = prepared(untied_model, "method=lora", "lora_target=[self_attn.q_proj,v_proj]")
    assert len({name.split(".lora_")[0] for name in opened(model)}) == 3 * 2


def test_pissa_starts_from_the_models_own_function(prepared, debug_model):
    ids = torch.arange(1, 17)[None]
    base = AutoModelForCausalLM.from_pretrained(debug_model, dtype=torch.float32).eval()
    model, _, _ = prepared(debug_model, "method=pissa")
    with torch.no_grad():
        assert torch.allclose(
            model.eval()(input_ids=ids).logits, base(input_ids=ids).logits, atol=1e-4
        )
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.lora_B["default"].weight.abs().sum() > 0


# ---------------------------------------------------------------- GaLore
def test_galore_projects_linear_weights_and_leaves_the_rest(new_run):
    made = new_run("method=galore", "galore_rank=8")
    low, rest = made.parts.optimizer.param_groups[0], made.parts.optimizer.param_groups[1:]
    assert (
        low["rank"] == 8
        and len(low["params"]) == 3 * 7
        and all("rank" not in group for group in rest)
    )


@pytest.mark.parametrize(
    "options",
    [
        ["galore_rank=65"],
        ["galore_rank=70", "galore_target=[down_proj]"],
        ["galore_target=[no_such]"],
    ],
)
def test_galore_refuses_what_the_model_cannot_give(new_run, options):
    with pytest.raises(ConfigError, match="galore_"):
        new_run("method=galore", *options)


@pytest.mark.parametrize("kind", quick_of(("std", "reverse_std", "right", "left", "full"), "full"))
def test_galore_works_at_the_full_rank(run, kind):
    """Upstream's reverse_std crashes where the rank is the small side."""
    assert (
        run("method=galore", "galore_rank=64", f"galore_proj_type={kind}")["status"] == "finished"
    )


def test_layerwise_galore_follows_the_schedule_and_reports_a_norm(run, tmp_path):
    plain = run("method=galore", "galore_rank=8", folder=tmp_path / "plain")
    layerwise = run("method=galore_layerwise", "galore_rank=8", folder=tmp_path / "layerwise")
    for a, b in zip(plain["curve"], layerwise["curve"], strict=True):
        if "loss" in a:
            assert a["lr"] == b["lr"] and b["gradient_norm"] > 0
            assert a["loss"] == b["loss"] and a["gradient_norm"] == pytest.approx(
                b["gradient_norm"], rel=1e-5
            )


def test_layerwise_galore_clips_each_weight(new_run):
    made = new_run("method=galore_layerwise", "galore_rank=8", "galore_max_weight_grad_norm=1e-3")
    seen = []
    inner = type(made.parts.optimizer).__mro__[
        2
    ]  # the mended package's class, behind the layer-wise one
    step = inner.step

    def watch(self, closure=None):
        seen.extend(float(p.grad.norm()) for group in self.param_groups for p in group["params"])
        return step(self, closure)

    inner.step = watch
    try:
        made.fit()
    finally:
        inner.step = step
    assert seen and max(seen) <= 1.01e-3


@pytest.mark.parametrize(
    "method", ["full", "galore", "galore_layerwise", "badam", "badam_ratio", "lora"]
)
def test_a_gradient_that_is_no_number_ends_as_diverged(new_run, method):
    from tuneoff.training.failures import classify_error

    extra = ["galore_rank=8", "galore_update_interval=2"] if "galore" in method else []
    made = new_run(f"method={method}", *extra)
    one_step = made.trainer.take_step

    def poison(step):
        if step == 2:
            weight = next(p for p in made.parts.model.parameters() if p.requires_grad)
            weight.register_hook(lambda gradient: gradient * float("nan"))
        one_step(step)

    made.trainer.take_step = poison
    with pytest.raises(ArithmeticError, match="diverged at step 3") as caught:
        made.fit()
    assert classify_error(caught.value) == "diverged"


# ---------------------------------------------------------------- 8-bit AdamW, on a CPU
@pytest.mark.parametrize("method", quick_of(METHODS, "full", "badam_ratio"))
def test_eight_bit_adamw_trains_near_adamw_in_less_state(run, quick_run, tmp_path, method):
    more = ["galore_rank=8"] if "galore" in method else []
    if method == "badam_ratio":
        with pytest.raises(ConfigError, match="optimizer=adamw_8bit"):
            run(f"method={method}", "optimizer=adamw_8bit")
        return
    eight_bit = run(f"method={method}", "optimizer=adamw_8bit", *more, folder=tmp_path / "8bit")
    assert eight_bit["status"] == "finished", eight_bit["error"]
    whole, _ = quick_run(method)
    assert eight_bit["loss"]["final"] == pytest.approx(whole["loss"]["final"], rel=2e-3)
    sizes = [
        result["memory"]["train_breakdown_gib"]["optimizer_state"] for result in (eight_bit, whole)
    ]
    assert (
        0 < sizes[0] <= sizes[1]
    )  # what is smaller than 4096 values stays in float32, as many adapters


def test_eight_bit_adamw_needs_kernels(run, monkeypatch):
    monkeypatch.setattr("tuneoff.models.optimizers.metadata.version", lambda name: "0.49.1")
    with pytest.raises(
        ConfigError, match="optimizer=adamw_8bit: .* 0.49.1 has no kernels for a CPU"
    ):
        run("method=full", "optimizer=adamw_8bit")


# ---------------------------------------------------------------- other ways to begin an adapter
INITS = ("gaussian", "olora", "orthogonal")


@pytest.mark.parametrize("kind", INITS)
def test_an_adapter_begins_as_it_is_asked_to_and_at_the_base_model(prepared, debug_model, kind):
    ids = torch.arange(1, 17)[None]
    base = AutoModelForCausalLM.from_pretrained(debug_model, dtype=torch.float32).eval()
    model, _, _ = prepared(debug_model, "method=lora", f"lora_init={kind}")
    with torch.no_grad():
        difference = model.eval()(input_ids=ids).logits - base(input_ids=ids).logits
    assert difference.abs().max() <= 1e-4
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    if kind == "gaussian":  # of deviation 1 / r, where LoRA's own is uniform in 1 / sqrt(width)
        assert down.std().item() == pytest.approx(1 / 8, rel=0.1) and not up.any()
    elif kind == "olora":
        assert torch.allclose(up.T @ up, torch.eye(8), atol=1e-4)
    else:
        assert down.any() and up.any() and (up @ down).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", INITS)
def test_what_began_otherwise_is_read_back(run, kind):
    """A run reads back what it has saved, and fails where the logits are others."""
    result = run("method=lora", f"lora_init={kind}", "save_model=true", "export_merged=true")
    assert result["status"] == "finished", result["error"]
    assert ("residual_base_bytes" in result["facts"]) == (kind == "olora")
    assert result["facts"]["merged_logits_difference"] <= 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["lora_init=gaussian", "pissa_init=true"], "lora_init=gaussian: must be null where"),
        (["lora_init=orthogonal", "lora_rank=3"], "lora_rank=3: must be even"),
        (["lora_init=olora", "quantization=4bit"], "lora_init=olora: would change the base"),
        (["lora_init=kaiming"], "lora_init=kaiming: must be one of gaussian, olora, orthogonal"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(settings, options, match):
    with pytest.raises(ConfigError, match=match):
        settings("method=lora", *options)
