"""Contract 6: what is saved loads with `from_pretrained` in a fresh process and gives the trained model's logits."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import METHODS, bound, prepare_run, quick_of

from tuneoff.config import ConfigError
from tuneoff.training.export import name_base

CASES = {method: [f"method={method}"] for method in METHODS}
CASES |= {
    f"{kind}_{method}": [f"method={method}", *more]
    for method in METHODS
    for kind, more in (("untied", []), ("bf16", ["pure_bf16=true"]))
}
CASES |= {
    "extra_embeddings": ["method=lora", "additional_target=[embed_tokens]"],
    "extra_norm": ["method=dora", "additional_target=[norm]"],
    "extra_pissa": ["method=pissa", "additional_target=[embed_tokens]"],
    "untied_extra_head": ["method=lora", "additional_target=[lm_head]"],
    "converted": ["method=pissa", "pissa_convert=true"],
    "converted_extra": ["method=pissa", "pissa_convert=true", "additional_target=[embed_tokens]"],
    "converted_rslora": ["method=pissa", "pissa_convert=true", "use_rslora=true"],
    "untied_converted": ["method=pissa", "pissa_convert=true", "pissa_iter=-1"],
    "bf16_converted": ["method=pissa", "pissa_convert=true", "pure_bf16=true"],
}
IN_BF16 = [case for case in CASES if case.startswith("bf16")]
PRECISE = [case for case in CASES if case not in IN_BF16]
QUICK_PRECISE = ("full", "lora", "pissa", "converted", "untied_galore", "extra_embeddings")
QUICK_IN_BF16 = ("bf16_full", "bf16_lora")

# Beside logits, for a merged model: by how many roundings its weights differ from the adapter merged in float32.
LOAD = """
import json, sys, torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM
ids = torch.arange(1, 33).reshape(2, 16)
load = AutoModelForCausalLM.from_pretrained
while line := sys.stdin.readline():
    line = json.loads(line)
    folder, base, dtype = Path(line["folder"]), line["base"], line["dtype"]
    found, roundings = {}, 0.0
    if (folder / "adapter_config.json").exists():
        base = folder / "base" if (folder / "base").exists() else base
        for name in ("once", "twice"):
            found[name] = PeftModel.from_pretrained(load(base, dtype=dtype), folder)
        found["merged"] = load(folder / "merged", dtype="auto")
        exact = PeftModel.from_pretrained(load(base, dtype=dtype).float(), folder).merge_and_unload().state_dict()
        before = load(base, dtype=dtype).state_dict()
        for name, weight in found["merged"].state_dict().items():
            allowed = exact[name].abs() + (exact[name] - before[name].float()).abs()
            roundings = max(roundings, float(((weight.float() - exact[name]).abs() / allowed.clamp(min=1e-12)).max()))
    else:
        found["once"] = load(folder, dtype="auto")
    with torch.no_grad():
        logits = {name: model.eval()(input_ids=ids).logits for name, model in found.items()}
    torch.save((logits, roundings * 2**8), folder / "logits.pt")
    print("loaded", flush=True)
"""


@pytest.fixture(scope="module")
def load_elsewhere():
    """`load_elsewhere(folder=…, base=…, dtype=…)`: what a process that has never seen the run loads from a folder.

    Returns:
        ({way of loading: logits (2, 16, vocabulary)}, the merged model's roundings)
    """
    words = [sys.executable, "-c", LOAD]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load(**export):
        process.stdin.write(json.dumps(export) + "\n")
        process.stdin.flush()
        while (line := process.stdout.readline()) != "loaded\n":
            assert line, "the process that loads has ended"
        return torch.load(f"{export['folder']}/logits.pt")

    yield load
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small_settings, debug_model, untied_model, load_elsewhere):
    """`exported(case)`: (method, trained logits, a fresh process's by name, roundings, facts)."""
    ids = torch.arange(1, 33).reshape(2, 16)

    @cache
    def export(case):
        model = untied_model if case.startswith("untied") else debug_model
        folder = tmp_path_factory.mktemp(case)
        words = [
            f"model.path={model}",
            "save_model=true",
            "export_merged=true",
            "data.limit=24",
            "max_steps=3",
            "lr=1e-2",
            *(["galore_rank=8"] if "galore" in case else []),
            *CASES[case],
        ]
        experiment, method, config = bound(*small_settings(words))
        training = prepare_run(experiment, method, folder, config)
        training.fit()
        with torch.no_grad():
            trained = training.parts.model.eval()(input_ids=ids).logits
        training.conclude()
        loaded, roundings = load_elsewhere(
            folder=str(folder / "model"), base=str(model), dtype=experiment.dtype.name
        )
        return experiment.method, trained, loaded, roundings, training.export_facts

    return export


def difference(one, other):
    return float((one.float() - other.float()).abs().max())


@pytest.mark.parametrize("case", quick_of(PRECISE, *QUICK_PRECISE))
def test_a_fresh_process_gives_the_trained_logits(exported, measured, case):
    method, trained, loaded, _, _ = exported(case)
    differences = {way: difference(logits, trained) for way, logits in loaded.items()}
    measured(method, "exported", differences["once"])
    if "merged" in differences:
        measured(method, "merged", differences["merged"])
    assert max(differences.values()) <= 1e-5
    assert ("merged" in loaded) == ("once" in loaded and "twice" in loaded)


@pytest.mark.parametrize("case", quick_of(IN_BF16, *QUICK_IN_BF16))
def test_in_bf16_full_weights_and_adapters_are_exact_and_merging_rounds(exported, measured, case):
    method, trained, loaded, roundings, facts = exported(case)
    assert trained.dtype == loaded["once"].dtype == torch.bfloat16
    if (
        case == "bf16_converted"
    ):  # the untouched base has not lost what PiSSA's residual lost to its rounding
        assert difference(loaded["once"], trained) < 0.05
        return
    measured(method, "exported, bf16", difference(loaded["once"], trained))
    assert torch.equal(loaded["once"], trained)
    if "merged" in loaded:
        measured(method, "merged, bf16", difference(loaded["merged"], trained))
        assert roundings <= 1.01
        assert (
            0 < facts["merged_logits_difference"] < 0.05
            and difference(loaded["merged"], trained) < 0.05
        )


@pytest.mark.parametrize("case", quick_of(CASES, *QUICK_PRECISE, *QUICK_IN_BF16))
def test_an_adapter_loaded_twice_is_one_adapter(exported, case):
    _, _, loaded, _, _ = exported(case)
    assert torch.equal(loaded["once"], loaded.get("twice", loaded["once"]))


def test_the_record_says_what_an_export_costs(exported):
    assert exported("pissa")[-1]["residual_base_bytes"] > 100_000
    assert exported("converted")[-1]["converted_rank"] == 16
    assert "residual_base_bytes" not in exported("converted")[-1]
    assert set(exported("full")[-1]) == {"saved_bytes"}
    assert exported("lora")[-1]["merged_logits_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("method", "fresh"),
    [
        ("lora", False),
        ("lora", True),
        pytest.param("dora", False, marks=pytest.mark.slow),
        pytest.param("rslora", False, marks=pytest.mark.slow),
        pytest.param("loraplus", False, marks=pytest.mark.slow),
        ("pissa", True),
    ],
)
def test_training_goes_on_from_a_saved_adapter(run, tmp_path, method, fresh):
    """From where it ended; a second export holds both trainings."""
    first = run(f"method={method}", "save_model=true", folder=tmp_path / "first")
    saved = tmp_path / "first" / "model"
    base = [f"model.path={saved / 'base'}", f"model.tokenizer={saved}"] if method == "pissa" else []
    second = run(
        f"method={method}",
        f"adapter_path={saved}",
        f"create_new_adapter={fresh}",
        *base,
        folder=tmp_path / "second",
    )
    assert second["status"] == "finished", second["error"]
    assert second["loss"]["initial"] == pytest.approx(first["loss"]["final"], abs=2e-6)
    assert second["loss"]["final"] != second["loss"]["initial"]


def test_a_saved_adapter_names_its_base_as_the_hub_does(settings, tmp_path):
    """A path of this machine means nothing to whom the adapter is given; a base that is saved beside stays a path."""
    experiment, _, _ = settings("method=lora", "save_model=true", "hub_name=acme/base")
    path = str(Path(experiment.model.path).absolute())
    config = tmp_path / "adapter_config.json"
    for base, named in ((path, "acme/base"), (f"{tmp_path}/base", f"{tmp_path}/base")):
        config.write_text(json.dumps({"r": 4, "base_model_name_or_path": base}))
        name_base(tmp_path, experiment)
        assert json.loads(config.read_text()) == {"r": 4, "base_model_name_or_path": named}
    with pytest.raises(ConfigError, match="hub_name=base: must be a hub name owner/name"):
        settings("hub_name=base")


def test_pissas_adapter_is_refused_on_other_weights_than_its_own(run, settings, tmp_path):
    """On the untouched base it would be another model, and nothing would say so."""
    run("method=pissa", "save_model=true", "max_steps=1")
    with pytest.raises(ConfigError, match="model.path=.*: must be .*model/base"):
        settings("method=lora", f"adapter_path={tmp_path / 'run' / 'model'}")


def test_a_failed_conversion_keeps_the_training_result(settings, tmp_path):
    experiment, chosen, config = settings("method=pissa", "pissa_convert=true", "save_model=true")
    training = prepare_run(experiment, chosen, tmp_path, config)
    training.fit()
    chosen.initial_adapter = {"no.such.lora_A": torch.ones(1)}  # what a renamed module would leave
    training.conclude()
    assert "conversion_error" in training.export_facts
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
    assert (tmp_path / "model" / "base" / "model.safetensors").exists()
