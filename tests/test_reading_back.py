"""Before a run says `finished`, what it saved was loaded again and is the model that was trained."""

import json

import pytest
import torch
from helpers import quick_of
from safetensors.torch import load_file, save_file
from shrunk_models import shrunk_model
from transformers import AutoConfig

from tuneoff.cli.summary import format_run_summary
from tuneoff.config import ConfigError
from tuneoff.distributed.stop import StopSignal
from tuneoff.jobs.work import TrainWork
from tuneoff.methods import Method
from tuneoff.methods.lora import LoRA
from tuneoff.models import reading_back
from tuneoff.models.checks import check_reloading

SAVED = ["save_model=true", "max_steps=2", "data.limit=16", "lr=1e-2"]
WHOLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


# ---------------------------------------------------------------- ways to spoil what was saved
def change_tensors(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def lose_a_tensor(file):
    change_tensors(file, lambda tensors: tensors.pop(sorted(tensors)[-1]))


def rename_a_tensor(file):
    change_tensors(file, lambda tensors: tensors.update(other=tensors.pop(sorted(tensors)[-1])))


def cut_a_tensor(file):
    name = sorted(load_file(file))[-1]
    change_tensors(file, lambda tensors: tensors.update({name: tensors[name][:1].clone()}))


def change_values(file):
    change_tensors(file, lambda tensors: [tensor.mul_(3) for tensor in tensors.values()])


def tear(file):
    file.write_bytes(file.read_bytes()[:-100])


def change_a_setting(file):
    path = next(file.parent.glob("*config.json"))
    config = json.loads(path.read_text())
    changed = {"lora_alpha": 99} if "lora_alpha" in config else {"rms_norm_eps": 1.0}
    path.write_text(json.dumps({**config, **changed}))


SPOILED = [
    ("method=full", WHOLE, lose_a_tensor, "missing weights: model.norm.weight"),
    ("method=badam", WHOLE, tear, "cannot be read back"),
    ("method=freeze", WHOLE, change_a_setting, "is another model than the trained one"),
    ("method=lora", ADAPTER, rename_a_tensor, "missing weights"),
    ("method=rslora", ADAPTER, change_values, "is another model than the trained one"),
    ("method=pissa", f"base/{WHOLE}", change_values, "is another model than the trained one"),
]
ALSO_SPOILED = [
    ("method=full", WHOLE, rename_a_tensor, "missing weights: model.norm.weight"),
    ("method=full", WHOLE, cut_a_tensor, "cannot be read back"),
    ("method=galore_layerwise", WHOLE, change_values, "is another model than the trained one"),
    ("method=lora", ADAPTER, lose_a_tensor, "missing weights: base_model.model.model.layers.2"),
    ("method=dora", ADAPTER, cut_a_tensor, "cannot be read back"),
    ("method=loraplus", ADAPTER, tear, "cannot be read back"),
    ("method=lora", ADAPTER, change_a_setting, "is another model than the trained one"),
    ("method=pissa", f"base/{WHOLE}", lose_a_tensor, "missing weights: model.norm.weight"),
    ("method=pissa pissa_convert=true", ADAPTER, change_values, "is another model than"),
]


@pytest.mark.parametrize(
    ("words", "name", "spoil", "reason"),
    [*SPOILED, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALSO_SPOILED)],
)
def test_a_spoiled_export_fails_the_run_and_stays(
    run, tmp_path, monkeypatch, words, name, spoil, reason
):
    method = LoRA if "lora" in words or "dora" in words or "pissa" in words else Method
    export = method.export

    def export_and_spoil(self, model, folder, merged):
        facts = export(self, model, folder, merged)
        spoil(folder / name)
        return facts

    monkeypatch.setattr(method, "export", export_and_spoil)
    more = ["galore_rank=8"] if "galore" in words else []
    result = run(*words.split(), *SAVED, *more, folder=tmp_path)
    assert result["status"] == "failed"
    assert result["error"]["type"] == "UnreadableExport"
    assert reason in result["error"]["message"] and "\n" not in result["error"]["message"]
    assert str(tmp_path / "model") in result["error"]["message"]
    assert (tmp_path / "model" / name).exists() and result["loss"]["final"]
    assert result["memory"]["peak_gib"]["export"]


def test_a_spoiled_merged_model_fails_the_run_and_keeps_both(run, tmp_path, monkeypatch):
    from tuneoff.methods import _lora_export

    load = _lora_export.load_saved

    def spoil_and_load(folder, instead_of):
        change_values(folder / WHOLE)
        return load(folder, instead_of)

    monkeypatch.setattr(_lora_export, "load_saved", spoil_and_load)
    result = run("method=lora", "export_merged=true", *SAVED, folder=tmp_path)
    assert result["status"] == "failed"
    assert "model/merged is another model than the trained one" in result["error"]["message"]
    assert (tmp_path / "model" / ADAPTER).exists()
    assert (tmp_path / "model" / "merged" / WHOLE).exists()


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_an_adapter_on_the_tied_weight_is_read_back_beside_the_trained_model(run, method):
    """The copy that is read back holds no part of the trained one's graph, which PEFT keeps for such an adapter."""
    result = run(f"method={method}", "lora_target=[q_proj,lm_head]", "export_merged=true", *SAVED)
    assert result["status"] == "finished", result["error"]
    assert result["facts"]["merged_logits_difference"] <= 1e-4


def test_each_part_of_a_model_is_read_back_with_its_own_attention():
    """Gemma 4's audio tower has no sdpa, which its language model was loaded with."""
    config = AutoConfig.for_model("llava")
    config._attn_implementation_internal = "sdpa"
    config.vision_config._attn_implementation_internal = "eager"
    attention = reading_back.name_attention(config)
    assert attention[""] == "sdpa" and attention["vision_config"] == "eager"
    assert reading_back.name_attention(AutoConfig.for_model("llama")).keys() == {""}


def test_no_memory_for_reading_back_is_told_as_that(run, monkeypatch):
    def too_large(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LoRA, "read_back", too_large)
    assert run("method=lora", *SAVED)["status"] == "out_of_memory"


# ---------------------------------------------------------------- large models: never two of them
@pytest.fixture
def every_model_is_large(monkeypatch):
    monkeypatch.setattr(reading_back, "BESIDE_BYTES", 0)


LARGE = (
    "method=full",
    "method=galore galore_rank=8",
    "method=badam",
    "method=lora export_merged=true",
    "method=dora additional_target=[norm] export_merged=true",
    "method=pissa export_merged=true",
    "method=pissa pissa_convert=true export_merged=true",
)


@pytest.mark.parametrize("words", quick_of(LARGE, LARGE[0], LARGE[3], LARGE[6]))
def test_a_large_model_makes_room_for_its_export(new_run, every_model_is_large, monkeypatch, words):
    """When the export is loaded, nothing of the weights that it brings along is in memory a second time."""
    training = new_run(*words.split(), *SAVED)
    training.fit()
    model = training.parts.model
    held = []
    load = reading_back.AutoModelForCausalLM.from_pretrained

    def watch(folder, **options):
        # An export is read with the attention of each of its parts, the base model with one.
        if isinstance(options["attn_implementation"], dict):
            named = model.get_base_model() if hasattr(model, "get_base_model") else model
            held.append(sum(weight.numel() for weight in named.parameters()))
        return load(folder, **options)

    monkeypatch.setattr(reading_back.AutoModelForCausalLM, "from_pretrained", watch)
    training.conclude()
    assert training.export_facts.get("merged_logits_difference", 0) <= 1e-4
    whole_exports = ("method=lora" not in words) + ("export_merged" in words)
    if "convert" in words or "dora" in words:
        whole_exports -= 1  # no base of its own
    assert held == [0] * whole_exports


def test_a_plain_adapter_is_read_back_on_the_base_in_memory(new_run, monkeypatch):
    training = new_run("method=lora", *SAVED)
    training.fit()
    monkeypatch.setattr(reading_back.AutoModelForCausalLM, "from_pretrained", None)
    monkeypatch.setattr("tuneoff.training.export.load_model", None)
    training.conclude()


def stop_reading_back(*arguments):
    raise StopSignal("stopped by a signal")


def test_a_stop_while_an_export_is_read_back(run, tmp_path, monkeypatch, every_model_is_large):
    """A small model is still whole, and goes into a checkpoint; a large one is in the export alone."""
    with monkeypatch.context() as patch:
        patch.setattr(LoRA, "read_back", stop_reading_back)
        result = run("method=lora", *SAVED, folder=tmp_path / "large")
        assert result["status"] == "interrupted" and "read back" in result["error"]["message"]
        assert (tmp_path / "large" / "model" / ADAPTER).exists()
        assert not (tmp_path / "large" / "checkpoints").exists()
        patch.setattr(reading_back, "BESIDE_BYTES", 2**30)
        result = run("method=lora", *SAVED, folder=tmp_path / "small")
        assert result["status"] == "interrupted" and "resume=auto" in result["error"]["message"]
    result = run("method=lora", "resume=auto", *SAVED, folder=tmp_path / "small")
    assert result["status"] == "finished" and result["resumed_at_step"] == 2


# ---------------------------------------------------------------- quantised bases
QUANTISED = [
    ("8bit", ["pure_bf16=true"]),
    ("4bit", []),
]
ALSO_QUANTISED = [
    ("8bit", []),
    ("8bit", ["mixed_precision=bf16"]),
    ("8bit", ["dtype=bfloat16"]),
    ("4bit", ["pure_bf16=true"]),
    ("4bit", ["mixed_precision=bf16"]),
    ("4bit", ["dtype=bfloat16"]),
]


@pytest.mark.parametrize(
    ("bits", "precision"),
    [*QUANTISED, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALSO_QUANTISED)],
)
def test_an_adapter_on_quantised_weights_is_read_back_and_merged(run, tmp_path, bits, precision):
    from transformers import AutoModelForCausalLM

    words = [f"quantization={bits}", "export_merged=true", *precision, *SAVED]
    result = run("method=lora", *words, folder=tmp_path)
    assert result["status"] == "finished", result["error"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model" / "merged", dtype="auto")
    assert not getattr(merged, "is_quantized", False)
    dtype = {weight.dtype for weight in merged.parameters()}
    half = "mixed_precision=bf16" not in precision and precision
    assert dtype == {torch.bfloat16 if half else torch.float32}
    assert not any("merged" in warning for warning in result["facts"].get("warnings", []))


# ---------------------------------------------------------------- what loading itself would change
@pytest.fixture
def padded_youtu(tmp_path):
    """Words that train a model whose own initialisation zeroes the padding token's embedding."""
    model = shrunk_model("youtu")
    assert model.get_input_embeddings().padding_idx == 0
    model.save_pretrained(tmp_path / "base")
    return [f"model.path={tmp_path / 'base'}", "model.tokenizer=tuneoff:tiny", *SAVED]


@pytest.mark.parametrize("words", [["method=lora"], ["method=full", "save_model=false"]])
def test_what_transformers_zeroes_on_loading_may_stay_frozen_or_unsaved(run, padded_youtu, words):
    assert run(*padded_youtu, *words)["status"] == "finished"


def test_a_model_that_could_not_be_read_back_is_refused_before_it_trains(run, padded_youtu):
    with pytest.raises(ConfigError, match=r"^save_model=true: .*token \(0\) to zero when it loads"):
        run(*padded_youtu, "method=full")


def test_an_embedding_with_padding_is_no_reason_to_refuse(settings):
    experiment, _, _ = settings("method=full", *SAVED)
    model = shrunk_model("llama", pad_token_id=0)
    assert model.get_input_embeddings().padding_idx == 0
    check_reloading(model, experiment, {"model.embed_tokens.weight"})


# ---------------------------------------------------------------- merging
def test_a_merge_that_changes_the_model_is_said_in_the_log_and_in_the_closing_tables(
    run, tmp_path, monkeypatch, caplog
):
    def merge_badly(model):
        merged = model.merge_and_unload()
        merged.get_output_embeddings().weight.data.mul_(1.5)
        return merged

    monkeypatch.setattr("tuneoff.methods._lora_export.merge_adapter", merge_badly)
    result = run("method=lora", "export_merged=true", *SAVED, folder=tmp_path)
    words = "the merged model's logits differ from the trained ones by"
    assert result["status"] == "finished" and words in result["facts"]["warnings"][-1]
    assert any(line.levelname == "WARNING" and words in line.message for line in caplog.records)
    assert words in format_run_summary(result, tmp_path)
    assert words in TrainWork.describe_result(tmp_path)
