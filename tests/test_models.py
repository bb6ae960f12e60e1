"""Where a model comes from, how its weights are stored and which kernels run: what is loaded, recorded and refused."""

import json
from pathlib import Path

import gguf_files
import pytest
import torch
from helpers import METHODS, TINY, quick_of
from peft import AutoPeftModelForCausalLM, PeftModel, prepare_model_for_kbit_training
from shrunk_models import shrunk_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from tuneoff.config import ConfigError
from tuneoff.models.loading import load_model
from tuneoff.models.tokenizer import load_tokenizer
from tuneoff.predict import predict

IDS = torch.arange(1, 33).reshape(2, 16)


@pytest.fixture
def trained(new_run):
    """`trained("method=lora", …)`: a run after its last step, and whether a frozen weight has changed."""

    def make(*overrides):
        training = new_run(*overrides)
        before = {
            name: parameter.clone()
            for name, parameter in training.parts.model.named_parameters()
            if not parameter.requires_grad
        }
        training.fit()
        after = dict(training.parts.model.named_parameters())
        return training, any(not torch.equal(value, after[name]) for name, value in before.items())

    return make


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def difference(one, other):
    return float((one - other).detach().abs().max())


# ---------------------------------------------------------------- GGUF
@pytest.fixture(scope="module")
def gguf(tmp_path_factory, debug_model):
    """(options that name a GGUF file of the small Llama, the same model with the weights that the file stands for)."""
    folder = tmp_path_factory.mktemp("gguf")
    model = AutoModelForCausalLM.from_pretrained(debug_model, dtype=torch.float32)
    kept = gguf_files.write(model, TINY, folder / "debug.gguf")
    model.load_state_dict({name: torch.tensor(value) for name, value in kept.items()}, strict=False)
    return [f"model.path={folder}", "model.gguf_file=debug.gguf"], model


def test_a_gguf_file_becomes_an_ordinary_model(settings, gguf, monkeypatch, tmp_path):
    options, expected = gguf
    monkeypatch.chdir(tmp_path)
    (tmp_path / "debug.gguf").write_text("another file of this name, where the command is run")
    experiment, _, _ = settings("method=full", *options)
    model, tokenizer = load_model(experiment), load_tokenizer(experiment.model)
    assert difference(logits(model), logits(expected)) <= 1e-5
    assert all(
        parameter.dtype == torch.float32 and parameter.requires_grad
        for parameter in model.parameters()
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    text = "def add(a, b):\n    return a + b  # 1234"
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(TINY)(text)["input_ids"]
    assert tokenizer.eos_token == tokenizer.pad_token == "<|end|>"
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("method", quick_of(["full", "lora", "pissa"], "lora"))
def test_what_was_trained_from_a_gguf_file_loads_again(trained, gguf, method):
    training, _ = trained(f"method={method}", *gguf[0], "save_model=true", "export_merged=true")
    expected = logits(training.parts.model)
    training.conclude()
    folder = training.parts.recorder.folder / "model"
    assert (
        AutoTokenizer.from_pretrained(folder)("return a")["input_ids"]
        == training.parts.tokenizer("return a")["input_ids"]
    )
    if (
        method == "lora"
    ):  # the adapter names the folder of the file, and the file is named as for the base itself
        loaded = AutoPeftModelForCausalLM.from_pretrained(
            folder, gguf_file="debug.gguf", dtype=torch.float32
        )
    elif method == "pissa":
        loaded = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert difference(logits(loaded), expected) <= 1e-5
    if method != "full":
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
        assert difference(logits(merged), expected) <= 1e-5


def test_a_gguf_file_is_predicted(settings, gguf):
    experiment, method, _ = settings("method=full", *gguf[0])
    assert predict(experiment, method)["parameters"]["total"] == sum(
        p.numel() for p in gguf[1].parameters()
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["model.gguf_file=nope.gguf"],
            "model.gguf_file=nope.gguf: {folder} does not hold it, but debug.gguf",
        ),
        (
            ["model.gguf_file=null"],
            "model.gguf_file=null: must be one of debug.gguf, since {folder} has no config.json",
        ),
        (
            ["model.path={folder}/debug.gguf", "model.gguf_file=null"],
            "model.path={folder}/debug.gguf: must be the folder of the GGUF file, with model.gguf_file=debug.gguf",
        ),
        (
            ["model.path=null", "model=llama_60m"],
            "model.gguf_file=debug.gguf: needs model.path, the folder or hub name that it is in",
        ),
        (
            ["method=lora", "quantization=4bit"],
            "quantization=4bit: must be null where model.gguf_file is given, whose weights are dequantised",
        ),
    ],
)
def test_a_gguf_file_that_cannot_be_used_is_refused(settings, gguf, options, line):
    folder = gguf[0][0].partition("=")[2]
    with pytest.raises(ConfigError) as caught:
        settings("method=full", *gguf[0], *(option.format(folder=folder) for option in options))
    assert str(caught.value) == line.format(folder=folder)


@pytest.mark.parametrize("size", [4, 30, 100_000])
def test_a_torn_gguf_file_is_refused_in_a_line(settings, gguf, tmp_path, size):
    whole = Path(gguf[0][0].partition("=")[2]) / "debug.gguf"
    (tmp_path / "torn.gguf").write_bytes(whole.read_bytes()[:size])
    experiment, _, _ = settings(
        "method=full", f"model.path={tmp_path}", "model.gguf_file=torn.gguf"
    )
    with pytest.raises(ConfigError, match="model.gguf_file=torn.gguf: cannot be read: ") as caught:
        load_model(experiment)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- quantisation
@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("lora", 4),
        ("dora", 4),
        pytest.param("lora", 8, marks=pytest.mark.slow),
        pytest.param("loraplus", 4, marks=pytest.mark.slow),
    ],
)
def test_adapters_train_on_quantised_weights(trained, debug_model, bits, method):
    training, moved = trained(
        f"method={method}",
        f"quantization={bits}bit",
        "lr=3e-3",
        "save_model=true",
        "export_merged=true",
    )
    assert not moved
    losses = training.parts.evaluation.losses
    assert losses["final"] != losses["initial"]
    assert {str(p.dtype) for p in training.parts.model.parameters()} == {
        "torch.float32",
        "torch.uint8" if bits == 4 else "torch.int8",
    }
    stored, unquantised = (
        training.parts.recorder.run["quantization"],
        AutoModelForCausalLM.from_pretrained(debug_model),
    )
    assert stored[f"load_in_{bits}bit"]
    if bits == 4:
        assert stored["bnb_4bit_quant_type"] == "nf4" and stored["bnb_4bit_use_double_quant"]
    adapters = sum(p.numel() for n, p in training.parts.model.named_parameters() if p.requires_grad)
    assert (
        training.parts.parameters["total"]
        == sum(p.numel() for p in unquantised.parameters()) + adapters
    )
    expected = logits(training.parts.model)
    training.conclude()
    base = AutoModelForCausalLM.from_pretrained(
        debug_model, quantization_config=BitsAndBytesConfig(**stored)
    )
    for module in base.modules():  # its own inference on some CPUs is in bfloat16
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    folder = training.parts.recorder.folder / "model"
    assert difference(logits(PeftModel.from_pretrained(base, folder)), expected) <= 1e-5
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    # Ordinary weights meet inputs that are not rounded to 8 bits.
    assert difference(logits(merged), expected) <= (1e-5 if bits == 4 else 2e-2)


@pytest.mark.parametrize("options", [[], ["gradient_checkpointing=true"]])
def test_gradients_through_4_bit_weights_are_those_of_the_weights_they_stand_for(settings, options):
    """Also after an evaluation, in which bitsandbytes repacks weights on some CPUs, and then has no gradient."""
    experiment, method, _ = settings("method=lora", "quantization=4bit", *options)
    torch.manual_seed(0)
    model = method.prepare(load_model(experiment))
    logits(model)
    plain = method.prepare(load_model(experiment).dequantize())
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "lora_" in name}, strict=False
    )
    seen = []
    for one in (model, plain):
        for name, parameter in one.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(
                    parameter, std=0.1, generator=torch.Generator().manual_seed(len(name))
                )
        one.train()(input_ids=IDS, labels=IDS).loss.backward()
        seen.append(
            {
                name: parameter.grad
                for name, parameter in one.named_parameters()
                if parameter.requires_grad
            }
        )
    assert seen[0].keys() == seen[1].keys() and len(seen[0]) == 3 * 7 * 2
    for name, gradient in seen[0].items():
        assert difference(gradient, seen[1][name]) <= 1e-4 * float(seen[1][name].abs().max()), name


def test_4_bit_weights_compute_in_the_type_of_the_run(trained, debug_model):
    training, moved = trained(
        "method=lora", "quantization=4bit", "pure_bf16=true", "save_model=true"
    )
    stored = training.parts.recorder.run["quantization"]
    assert not moved and stored["bnb_4bit_compute_dtype"] == "bfloat16"
    expected = logits(training.parts.model)
    training.conclude()
    base = AutoModelForCausalLM.from_pretrained(
        debug_model, quantization_config=BitsAndBytesConfig(**stored), dtype=torch.bfloat16
    )
    loaded = PeftModel.from_pretrained(
        prepare_model_for_kbit_training(base), training.parts.recorder.folder / "model"
    )
    assert (
        difference(loaded(input_ids=IDS).logits, expected) == 0.0
    )  # in train mode, where nothing is repacked


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name not in ("lora", "dora", "rslora", "loraplus")]
)
def test_what_trains_or_changes_the_base_is_refused_on_quantised_weights(
    settings, debug_model, tmp_path, method
):
    with pytest.raises(ConfigError, match="quantised"):
        settings(f"method={method}", "quantization=8bit")
    config = json.loads((debug_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {}}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="quantised"):
        settings(f"method={method}", f"model.path={tmp_path}")
    with pytest.raises(
        ConfigError, match="quantization=4bit: must be null, since the weights in .* are quantised"
    ):
        settings("method=lora", f"model.path={tmp_path}", "quantization=4bit")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["model.pretrained=false"], "quantization=4bit: needs pretrained weights"),
        (["task=predict"], "quantization=4bit: a prediction does not cover quantised weights"),
        (
            ["skip_if_over_gib=1"],
            "quantization=4bit: a prediction does not cover quantised weights",
        ),
    ],
)
def test_quantisation_that_cannot_be_is_refused(settings, options, match):
    with pytest.raises(ConfigError, match=match):
        settings("method=lora", "quantization=4bit", *options)


def test_dora_on_8_bit_weights_is_refused_on_a_cpu(settings):
    experiment, method, _ = settings("method=dora", "quantization=8bit")
    if torch.cuda.is_available():
        pytest.skip("works on CUDA")
    with pytest.raises(ConfigError, match="use_dora=true: on a CPU"):
        method.prepare(load_model(experiment))


def test_a_quantised_module_does_not_train(settings):
    experiment, method, _ = settings(
        "method=lora", "quantization=4bit", "lora_target=[q_proj]", "additional_target=[down_proj]"
    )
    with pytest.raises(ConfigError, match="additional_target=down_proj: is quantised"):
        method.prepare(load_model(experiment))


# ---------------------------------------------------------------- weights that a file holds joined
def test_each_weight_has_a_storage_of_its_own(settings, tmp_path):
    """This type's file holds queries, keys and values as one matrix, of which transformers loads views."""
    saved = shrunk_model("hrm_text")
    saved.save_pretrained(tmp_path)
    experiment, _, _ = settings("method=full", f"model.path={tmp_path}")
    model = load_model(experiment)
    for name, parameter in model.named_parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name
        assert torch.equal(parameter, saved.get_parameter(name))
