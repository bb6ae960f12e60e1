"""Adapters that are gone on with: what they are stays, and what contradicts them is refused."""

import json

import pytest
import torch
from adapted_models import LLAMA, UNTIED, assert_exported, build, train

from tuneoff.config import ConfigError
from tuneoff.methods._lora_stored import read_adapter, take_adapter
from tuneoff.methods._lora_stored_types import STORED_TYPES, describe_wrong_type


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
    pickled = adapter / "adapter_model.bin"
    torch.save({"weight": torch.zeros(9)}, pickled)
    settings(*words)
    for torn in (pickled.read_bytes()[:-100], b"", b"xx"):
        pickled.write_bytes(torn)
        with pytest.raises(ConfigError, match="adapter_model.bin is torn, or no file of weights"):
            settings(*words)
    pickled.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match="adapter_model.bin is a pointer of git-lfs"):
        settings(*words)
    pickled.unlink()
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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"r": None}, "its adapter_config.json has r=null; must be a whole number above 0"),
        ({"lora_alpha": "much"}, 'its adapter_config.json has lora_alpha="much"; must be'),
        ({"bias": "all"}, "its adapter_config.json has bias=all, which no option here can say"),
        ({"lora_bias": True}, "its adapter_config.json has lora_bias=true, which"),
        (
            {"trainable_token_indices": [1, 2]},
            "its adapter_config.json has trainable_token_indices=",
        ),
        ({"layer_replication": [[0, 1], [0, 2]]}, "its adapter_config.json has layer_replication="),
    ],
)
def test_an_adapter_with_settings_that_no_option_can_say_is_refused(
    settings, adapter, change, reason
):
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=f"^adapter_path=.*: {reason}"):
        settings("method=lora", f"adapter_path={adapter}")


WRONG_TYPES = [
    ("r", 8.5),
    ("r", True),
    ("lora_alpha", float("nan")),
    ("lora_dropout", "x"),
    ("lora_dropout", None),
    ("target_modules", 5),
    ("target_modules", ["q_proj", 5]),
    ("target_modules", "(q_proj"),
    ("exclude_modules", {"a": 1}),
    ("target_parameters", 5),
    ("modules_to_save", 5),
    ("modules_to_save", "lm_head"),
    ("rank_pattern", {"q_proj": "x"}),
    ("rank_pattern", {"(": 4}),
    ("rank_pattern", [4]),
    ("alpha_pattern", {"q_proj": 0}),
    ("layers_to_transform", "all"),
    ("layers_pattern", 5),
    ("use_dora", "no"),
    ("base_model_name_or_path", 5),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_setting_of_a_wrong_type_in_an_adapter_is_refused(tmp_path, name, value):
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, name: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"^adapter_path=.*_config.json has {name}=.*; must be"):
        read_adapter(str(tmp_path))


def test_an_adapter_of_peft_passes_whatever_it_says(tmp_path):
    """All of its settings at their defaults, and those that have several types at each of them."""
    from peft import LoraConfig

    written = LoraConfig(target_modules="all-linear").to_dict()
    assert set(STORED_TYPES) <= set(written)
    for change in (
        {},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "lora_dropout": 0},
        {"rank_pattern": {r".*\.q_proj": 2}, "alpha_pattern": {"q": 0.5}, "lora_alpha": 0.5},
        {"layers_to_transform": 3, "layers_pattern": "layers", "exclude_modules": ".*v_proj"},
        {"layers_to_transform": [0, 3], "layers_pattern": ["h"], "use_dora": True},
    ):
        assert describe_wrong_type({**written, **change}) is None


def test_an_adapter_without_a_rank_is_refused(settings, adapter):
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    del config["r"]
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"^adapter_path=.*: its adapter_config.json has no r;"):
        settings("method=lora", f"adapter_path={adapter}")


def test_ranks_that_differ_between_layers_are_recorded(prepare, tmp_path, settings):
    """What EVA leaves, and PEFT's `rank_pattern`."""
    from peft import LoraConfig, get_peft_model

    pattern = {"layers.0.self_attn.q_proj": 2}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], rank_pattern=pattern, task_type="CAUSAL_LM"
    )
    get_peft_model(build(LLAMA), config).save_pretrained(tmp_path)
    _, method, _ = settings("method=lora")
    method.adapter_path = str(tmp_path)
    facts = method.facts(method.prepare(build(LLAMA)))
    assert facts["adapters_by_rank"] == {"2": 1, "4": 1}
    model, method, _ = prepare(LLAMA, "method=lora")
    assert "adapters_by_rank" not in method.facts(model)


def test_an_adapter_that_was_trained_on_another_model_is_told(settings, adapter):
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    same = config["base_model_name_or_path"].rpartition("/")[2]
    bases = {
        "acme/Big-7B": True,
        f"acme/{same}": False,
        f"/cache/models--acme--{same}/snapshots/1": False,
        f"acme/{same}-Instruct": True,
        None: False,
    }
    for base, is_told in bases.items():
        file.write_text(json.dumps({**config, "base_model_name_or_path": base}))
        for fresh in ("true", "false"):
            words = [f"adapter_path={adapter}", f"create_new_adapter={fresh}"]
            _, method, _ = settings("method=lora", *words)
            assert bool(method.warnings) is is_told
    file.write_text(json.dumps({**config, "base_model_name_or_path": "acme/Big-7B"}))
    _, method, _ = settings("method=lora", f"adapter_path={adapter}")
    assert "was trained on acme/Big-7B, and is put on model.path=" in method.warnings[0]


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
    with pytest.raises(ConfigError, match=r"no place for the adapter's model.layers.1.self_attn"):
        method.prepare(build({**LLAMA, "num_hidden_layers": 1}))
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


@pytest.mark.parametrize("beginning", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_whose_beginning_peft_repeats_is_saved_with_what_it_applies_to(
    prepare, settings, tmp_path, beginning
):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=beginning, r=4)
    get_peft_model(build(UNTIED), config).save_pretrained(tmp_path / "old")
    experiment, method, _ = settings("method=lora")
    experiment.model.path = "acme/base"
    method.adapter_path = str(tmp_path / "old")
    take_adapter(method, method.adapter_path, experiment)
    model = method.prepare(build(UNTIED))
    train(model, method, experiment)
    assert method.weights_to_save(model).keys() > build(UNTIED).state_dict().keys()
    assert_exported(UNTIED, model, method, tmp_path)


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
    assert "learning rate    0.003 (the method's default, not tuned by a sweep)" in table
