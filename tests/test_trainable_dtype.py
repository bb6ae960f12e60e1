"""trainable_dtype: what trains is float32 beside frozen weights in bfloat16, the same in run, prediction and export."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tuneoff.cli.llamafactory.translate import translate
from tuneoff.config import ConfigError
from tuneoff.measure.memory_peaks import GIB
from tuneoff.models.layers import count_bytes
from tuneoff.predict.predictor import Predictor
from tuneoff.record import RUN, read_json

TWO_TYPES = ["dtype=bfloat16", "trainable_dtype=float32", "mixed_precision=bf16"]
# What else a method leaves frozen: BAdam its embeddings, adapters the base beside what they train in full.
FREEZING = {
    "freeze": ["method=freeze"],
    "badam": ["method=badam"],
    "lora": ["method=lora", "additional_target=[norm]"],
}


@pytest.mark.parametrize("words", FREEZING.values(), ids=FREEZING)
def test_what_trains_is_float32_and_the_rest_bfloat16(new_run, words):
    run = new_run(*words, *TWO_TYPES)
    trained = run.parts.method.ever_trained(run.parts.model, run.parts.optimizer)
    for name, weight in run.parts.model.named_parameters():
        expected = torch.float32 if name in trained else torch.bfloat16
        assert weight.dtype is expected, name
    predictor = Predictor(run.parts.experiment, run.parts.method)
    predicted = {name: weight.dtype for name, weight in predictor.model.named_parameters()}
    assert predicted == {name: weight.dtype for name, weight in run.parts.model.named_parameters()}


def test_an_export_keeps_both_types_and_is_loaded_without_rounding(run, tmp_path, debug_model):
    result = run("method=freeze", *TWO_TYPES, "save_model=true", "max_steps=2")
    assert result["status"] == "finished", result.get("error")
    precision = read_json(tmp_path / "run" / RUN)["provenance"]["precision"]
    assert precision["dtype"] == "bfloat16" and precision["trainable_dtype"] == "float32"
    assert precision["mixed_precision"] == "bf16"
    folder = tmp_path / "run" / "model"
    saved = load_file(folder / "model.safetensors")
    base = load_file(debug_model / "model.safetensors")
    for name, weight in saved.items():
        trained = ".layers.1." in name or ".layers.2." in name
        assert weight.dtype is (torch.float32 if trained else torch.bfloat16), name
        assert trained or torch.equal(weight, base[name].bfloat16())
    assert result["facts"]["saved_bytes"] == (folder / "model.safetensors").stat().st_size
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for name, weight in loaded.named_parameters():
        assert weight.dtype is torch.float32 and torch.equal(weight, saved[name].float())
    weights = count_bytes(saved.values()) / GIB
    assert result["memory"]["train_breakdown_gib"]["parameters"] == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["trainable_dtype=bfloat16"], "trainable_dtype"),
        (["pure_bf16=true", "trainable_dtype=float32"], "trainable_dtype"),
        ([*TWO_TYPES, "mixed_precision=no"], "mixed_precision"),
    ],
)
def test_types_that_do_not_go_together_are_refused(settings, words, key):
    with pytest.raises(ConfigError) as refused:
        settings("method=freeze", *words)
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("keys", "types"),
    [
        ("finetuning_type: freeze", ("bfloat16", "float32")),
        ("finetuning_type: lora", ("bfloat16", "float32")),
        ("finetuning_type: full", ("float32", None)),
        ("finetuning_type: full\nuse_badam: true", ("bfloat16", None)),
        ("finetuning_type: freeze\ndeepspeed: ds_z3_config.json", ("float32", None)),
    ],
)
def test_bf16_of_a_llamafactory_yaml_says_both_types(tmp_path, keys, types):
    file = tmp_path / "file.yaml"
    file.write_text(f"{keys}\nbf16: true\n")
    words = translate(file).words
    assert (words["dtype"], words.get("trainable_dtype")) == types
    assert words["mixed_precision"] == "bf16"
