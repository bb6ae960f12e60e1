"""Checkpoints that are torn, lack weights, or are quantised already: refused in one line, and never random instead."""

import json
import shutil

import pytest
import torch
from helpers import composed, save_debug_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, PreTrainedTokenizerFast

from tuneoff.config import ConfigError, Model, bind
from tuneoff.models.loading import describe_unused, load_model, refuse_odd_widths
from tuneoff.models.loading_errors import explain_loading_errors, refuse_adapted
from tuneoff.models.tokenizer import describe_tokenizer_file, is_without_words, load_tokenizer

WEIGHTS = "model.safetensors"
MISSING = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory):
    return save_debug_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole_model, tmp_path):
    return shutil.copytree(whole_model, tmp_path / "model")


def load(folder):
    """Bind, and load tokenizer and model, as a run does."""
    cfg = composed("model.name=damaged")
    cfg.model.path = str(folder)
    experiment, _ = bind(cfg)
    load_tokenizer(experiment.model)
    return load_model(experiment)


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights), folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def without_first(weights):
    weights.pop(MISSING)
    return weights


def with_a_prefix(weights):
    return {f"module.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_first, f"holds no {MISSING}, one of 1 weights"),
        (with_a_prefix, "holds no lm_head.weight, one of 30 weights"),
    ],
)
def test_no_weight_is_drawn_at_random_where_one_is_missing(folder, change, reason):
    change_weights(folder, change)
    with pytest.raises(ConfigError, match=f"^model.path=.*: {reason}"):
        load(folder)


def test_more_layers_than_there_are_weights_for_are_refused(folder):
    change_config(folder, num_hidden_layers=9)
    with pytest.raises(ConfigError, match="holds no model.layers.3.*, one of 54 weights"):
        load(folder)


def test_weights_beyond_the_config_are_told_and_recorded(whole_model, tmp_path, run):
    folder = shutil.copytree(whole_model, tmp_path / "model")
    change_config(folder, num_hidden_layers=1, layer_types=None)
    result = run("model.name=cut", f"model.path={folder}", "max_steps=1", folder=tmp_path / "run")
    unused = "18 weights of the file, from model.layers.1.input_layernorm.weight to "
    assert result["unused_weights"].startswith(unused)
    assert any(unused in warning for warning in result["facts"]["warnings"])
    assert describe_unused([]) is None


def cut_weights(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:2000])


def narrow_a_weight(folder):
    def narrow(weights):
        weights[MISSING] = weights[MISSING][:-2].contiguous()
        return weights

    change_weights(folder, narrow)


def break_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"xx")


DAMAGES = {
    "torn": (cut_weights, "cannot be read: SafetensorError"),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "cannot be read: Safetensor"),
    "pickle": (break_pickle, "cannot be read: UnpicklingError"),
    "sizes": (narrow_a_weight, "its weights do not have the sizes"),
    "tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "its tokenizer.json lacks model and added_tokens",
    ),
    "no tokenizer": (
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
        "holds no tokenizer; model.tokenizer is",
    ),
    "type": (lambda folder: change_config(folder, dtype="nonsense"), "cannot be read: Attribute"),
    "negative": (lambda folder: change_config(folder, head_dim=-4), "cannot be read: Runtime"),
    "none": (lambda folder: change_config(folder, head_dim=0), "cannot be read: "),
    "unknown": (lambda folder: change_config(folder, hidden_act="x"), "cannot be read: KeyError"),
    "text": (lambda folder: change_config(folder, head_dim="x"), "its config.json cannot be"),
    "awq": (
        lambda folder: change_config(folder, quantization_config={"quant_method": "awq"}),
        "Loading an AWQ quantized model requires",
    ),
    "unknown quantisation": (
        lambda folder: change_config(folder, quantization_config={"quant_method": "own"}),
        "its config.json has quant_method=own, which transformers does not know",
    ),
    "adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        r"holds an adapter \(adapter_config.json\), which adapter_path=",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_cannot_be_read_is_refused_in_a_line(folder, damage):
    break_it, reason = DAMAGES[damage]
    break_it(folder)
    with pytest.raises(ConfigError, match=f"^model.path=.*: {reason}") as refusal:
        load(folder)
    assert str(refusal.value).count("model.path=") == 1
    assert "\n" not in str(refusal.value)


# What stands in a config.json, and what is said of it before torch is there.
CONFIGS = {
    b"{": "is no JSON: line 1, column 2: Expecting property name",
    b"": "is no JSON: line 1, column 1",
    b"[]": "must hold an object",
    b"null": "must hold an object",
    b'{"a": "\xe9"}': "is not UTF-8: byte 8 is 0xe9",
    b"[" * 100_000: "is nested too deep",
    b'{"quantization_config": "x"}': 'has quantization_config="x"; must be an object, or null',
    b'{"num_attention_heads": 0}': "has num_attention_heads=0; must be a whole number above 0",
    b'{"hidden_size": -4}': "has hidden_size=-4; must be",
    b'{"n_layer": 2.5}': "has n_layer=2.5; must be",
    b'{"vocab_size": "x"}': 'has vocab_size="x"; must be',
    b'{"text_config": {"vocab_size": true}}': "has vocab_size=true; must be",
    b'{"num_attention_heads": 4, "num_key_value_heads": 3}': "has num_key_value_heads=3; must divide",
}


@pytest.mark.parametrize("content", CONFIGS)
def test_a_config_that_makes_no_model_is_refused_when_it_is_checked(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    model = Model("m", str(tmp_path), pretrained=False)
    with pytest.raises(ConfigError, match=f"^model.path={tmp_path}: its config.json ") as refusal:
        model.check()
    assert f"its config.json {CONFIGS[content]}" in str(refusal.value)


def test_a_folder_in_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"its config.json is a folder"):
        Model("m", str(tmp_path), pretrained=False).check()


@pytest.mark.parametrize(
    "config",
    [
        {"intermediate_size": [8, 16], "num_hidden_layers": {"text": 3}, "head_dim": 0},
        {"num_attention_heads": 4, "num_key_value_heads": 2, "quantization_config": None},
        {"num_attention_heads": [1, 2], "num_key_value_heads": 3, "n_head": None},
    ],
)
def test_sizes_that_some_model_types_have_pass(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    Model("m", str(tmp_path), pretrained=False).check()


def test_a_shape_of_no_size_is_refused():
    shape = {"model_type": "llama", "num_attention_heads": 0}
    with pytest.raises(ConfigError, match=r"^model.config.num_attention_heads=0: must be a whole"):
        Model("m", config=shape).check()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), AssertionError(), KeyError("x"), EOFError()]
)
def test_what_transformers_raises_for_sizes_is_the_fault_of_the_model(error):
    for model, key in ((Model("m", "here"), "model.path=here"), (Model("m"), "model.config=null")):
        reason = f"^{key}: cannot be read: {type(error).__name__}"
        with pytest.raises(ConfigError, match=reason), explain_loading_errors(model):
            raise error


@pytest.mark.parametrize("content", ["[]", "", "null", '{"model": {}}', '{"added_tokens": []}'])
def test_what_a_tokenizer_lacks_is_said(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    reason = describe_tokenizer_file(file)
    assert reason.startswith("lacks " if "{" in content else "cannot be read as a JSON object")
    assert describe_tokenizer_file(tmp_path / "none.json") is None


def test_a_path_with_the_name_of_an_attention_is_not_taken_for_one(whole_model, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "GLM-Flash")
    (folder / WEIGHTS).rename(folder / "model-00002-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {MISSING: "model-00001-of-00002.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="^model.path=.*GLM-Flash: .*model-00001-of-00002"):
        load(folder)


def test_words_may_all_have_been_added():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert is_without_words(tokenizer)
    tokenizer.add_tokens(["A", "C", "G", "T"])
    assert not is_without_words(tokenizer)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma", "qwen2", "roberta"])
def test_a_tokenizer_of_special_tokens_alone_is_none(tmp_path, model_type):
    """What transformers makes of a folder without a tokenizer's files reads everything as nothing, or as unknown."""
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"^model.path={tmp_path}: holds no tokenizer"):
        load_tokenizer(Model("m", str(tmp_path)))


def test_a_model_of_the_hub_that_brings_an_adapter_is_refused(whole_model):
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(whole_model)
    refuse_adapted("acme/both", model)
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ConfigError, match=r"^model.path=acme/both: holds an adapter"):
        refuse_adapted("acme/both", model)


def test_a_lack_of_memory_is_no_fault_of_the_model(folder, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(RuntimeError, match="allocate memory"):
        load(folder)


def test_a_pointer_of_git_lfs_is_refused_before_anything_is_loaded(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\nsize 123\n")
    with pytest.raises(ConfigError, match=f"{WEIGHTS} is a pointer of git-lfs"):
        bind(composed("model.name=x", f"model.path={folder}"))
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model.bin is a pointer of git-lfs"):
        bind(composed("model.name=x", f"model.path={folder}"))


def test_a_null_in_a_config_is_no_quantisation(folder):
    change_config(folder, quantization_config=None)
    experiment, _ = bind(composed("model.name=x", f"model.path={folder}"))
    assert experiment.quantised is None


def test_weights_that_are_quantised_already_stay_so(whole_model, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = shutil.copytree(whole_model, tmp_path / "model")
    quantised = AutoModelForCausalLM.from_pretrained(
        whole_model, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    quantised.save_pretrained(folder)
    model = load(folder)
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert type(layer).__name__ == "Linear4bit"


def test_quantised_layers_of_an_odd_width_are_refused_for_a_gpu():
    """On an H200 bitsandbytes' kernels ended with `misaligned address`."""
    layer = torch.nn.Linear(6, 5)
    packed = torch.zeros(15, 1, dtype=torch.uint8)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ConfigError, match=r"^quantization=4bit: must be null .*: down is 5 wide"):
        refuse_odd_widths(torch.nn.ModuleDict({"down": layer}), "4bit")
    refuse_odd_widths(torch.nn.ModuleDict({"plain": torch.nn.Linear(6, 5)}), "4bit")
