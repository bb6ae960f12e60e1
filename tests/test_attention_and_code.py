"""Attention, Liger, and code of a model's own: what runs is asked for and recorded, what cannot is refused."""

import json

import pytest
import torch
from helpers import TINY
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
)

from tuneoff.config import ConfigError
from tuneoff.models.loading import load_model
from tuneoff.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory):
    """Folder of a small Gemma 2, whose attention caps its logits, which sdpa cannot."""
    folder = tmp_path_factory.mktemp("gemma2")
    Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=4096,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


def test_the_record_says_which_attention_ran(run, debug_model, gemma2, tmp_path):
    for model, chosen in ((debug_model, "sdpa"), (gemma2, "eager")):
        result = run("method=full", f"model.path={model}", "max_steps=1", folder=tmp_path / chosen)
        assert result["status"] == "finished", result["error"]
        assert (result["attention"], result["liger"], result["quantization"]) == (
            chosen,
            False,
            None,
        )


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_attention_that_cannot_be_is_refused_in_a_line(settings, gemma2, attention):
    experiment, _, _ = settings("method=full", f"model.path={gemma2}")
    experiment.model.attention = attention  # flash attention's package is looked for before
    with pytest.raises(ConfigError, match=f"model.attention={attention}: ") as caught:
        load_model(experiment)
    assert "\n" not in str(caught.value) and "https" not in str(caught.value)


def test_liger_is_refused_where_it_cannot_run(settings):
    experiment, _, _ = settings("method=full")
    if torch.cuda.is_available():
        pytest.skip("it can run here")
    experiment.model.liger = True  # its package is looked for before
    with pytest.raises(
        ConfigError, match="model.liger=true: needs a CUDA device, and there is none"
    ):
        load_model(experiment)


@pytest.fixture
def with_code(debug_model, tmp_path, monkeypatch):
    """Folder of the small Llama as a model type that only its own Python file defines."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache")
    )
    monkeypatch.syspath_prepend(tmp_path / "cache")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in debug_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\nclass MineConfig(LlamaConfig):\n"
        "    model_type = 'mine'\n\n\nclass MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    own = {
        "model_type": "mine",
        "architectures": ["MineForCausalLM"],
        "auto_map": {
            "AutoConfig": "mine.MineConfig",
            "AutoModelForCausalLM": "mine.MineForCausalLM",
        },
    }
    (folder / "config.json").write_text(
        json.dumps({**LlamaConfig.from_pretrained(debug_model).to_dict(), **own})
    )
    return folder


def test_code_of_the_models_own_runs_only_where_asked_for(settings, with_code):
    experiment, _, _ = settings("method=full", f"model.path={with_code}")
    line = f"model.trust_remote_code=false: {with_code} brings code of its own, which runs only where this is true"
    for load in (
        lambda: load_tokenizer(experiment.model),
        lambda: load_model(experiment),
    ):  # the first comes first
        with pytest.raises(ConfigError) as caught:
            load()
        assert str(caught.value) == line
    experiment, _, _ = settings(
        "method=full", f"model.path={with_code}", "model.trust_remote_code=true"
    )
    load_tokenizer(experiment.model)
    assert type(load_model(experiment)).__name__ == "MineForCausalLM"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "nobodys"}, "model.path=.*: .*nobodys"),
        ({"model_type": "vit"}, "model.path=.*: "),
    ],
)
def test_a_model_that_transformers_does_not_have_is_refused_in_a_line(
    settings, debug_model, tmp_path, change, match
):
    config = json.loads((debug_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    experiment, _, _ = settings("method=full", f"model.path={tmp_path}", "model.pretrained=false")
    with pytest.raises(ConfigError, match=match) as caught:
        load_model(experiment)
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_cannot_be_reached_is_refused_in_a_line(settings):
    experiment, _, _ = settings("method=full", "model.path=nobody/nothing")
    with pytest.raises(ConfigError, match="model.path=nobody/nothing: ") as caught:
        load_tokenizer(experiment.model)
    assert "\n" not in str(caught.value)


def test_data_that_the_model_has_no_embeddings_for_is_refused(run, tmp_path):
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    for vocabulary, positions, line in (
        (300, 512, "model.tokenizer=tuneoff:tiny: gives token .* the model has 300"),
        (4096, 32, "max_length=96: must be at most 32, the positions that the model"),
    ):
        folder = tmp_path / str(vocabulary)
        GPT2LMHeadModel(
            GPT2Config(vocab_size=vocabulary, n_positions=positions, **sizes)
        ).save_pretrained(folder)
        with pytest.raises(ConfigError, match=line):
            run("method=full", f"model.path={folder}", "model.tokenizer=tuneoff:tiny")
