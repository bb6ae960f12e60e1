"""Contract 6: what is saved loads with `from_pretrained` in a fresh process and gives the trained model's logits."""
import json
import subprocess
import sys

import pytest
import torch
from conftest import METHODS

from tuneoff.record import Recorder
from tuneoff.trainer import Trainer

CASES = {method: [f"method={method}"] for method in METHODS} | {
    "untied_full": ["method=full"], "untied_lora": ["method=lora"], "untied_dora": ["method=dora"],
    "untied_pissa": ["method=pissa"],
    "extra_embeddings": ["method=lora", "additional_target=[embed_tokens]"],
    "extra_norm": ["method=lora", "additional_target=[norm]"],
    "untied_extra_head": ["method=lora", "additional_target=[lm_head]"],
    "converted": ["method=pissa", "pissa_convert=true"],
    "converted_rslora": ["method=pissa", "pissa_convert=true", "use_rslora=true"],
    "untied_converted": ["method=pissa", "pissa_convert=true", "pissa_iter=-1"]}

LOAD = """
import json, sys, torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM
ids = torch.arange(1, 33).reshape(2, 16)
for line in json.loads(sys.argv[1]):
    folder, base = Path(line["folder"]), line["base"]
    found = {}
    if (folder / "adapter_config.json").exists():
        base = folder / "base" if (folder / "base").exists() else base
        for name in ("once", "twice"):
            found[name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), folder)
        found["merged"] = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype="float32")
    else:
        found["once"] = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    with torch.no_grad():
        torch.save({name: model.eval()(input_ids=ids).logits for name, model in found.items()}, folder / "logits.pt")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, debug_model, untied_model):
    """{case: (logits of the trained model, logits of what a fresh process loaded)}, float32, (2, 16, vocabulary)."""
    from conftest import QUICK, ROOT
    from hydra import compose, initialize_config_dir

    from tuneoff.config import bind, resolved
    ids = torch.arange(1, 33).reshape(2, 16)
    trained, jobs = {}, []
    for case, overrides in CASES.items():
        model = untied_model if case.startswith("untied") else debug_model
        folder = tmp_path_factory.mktemp(case)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", overrides=[*QUICK, f"model.path={model}", "model.name=debug", "save_model=true",
                                               "export_merged=true", "data.limit=24",
                                               *(["galore_rank=8"] if "galore" in case else []), *overrides])
        trainer = Trainer(*bind(cfg), Recorder(folder))
        trainer.load({"config": resolved(cfg)})
        trainer.fit()
        with torch.no_grad():
            trained[case] = trainer.model.eval()(input_ids=ids).logits
        trainer.conclude()
        jobs.append({"case": case, "folder": str(folder / "model"), "base": str(model), "facts": trainer.facts})
    subprocess.run([sys.executable, "-c", LOAD, json.dumps(jobs)], check=True)
    return {job["case"]: (trained[job["case"]], torch.load(f"{job['folder']}/logits.pt"), job["facts"]) for job in jobs}


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_gives_the_trained_logits(exported, case):
    trained, loaded, _ = exported[case]
    difference = max(float((logits - trained).abs().max()) for logits in loaded.values())
    print(f"{case}: largest difference {difference:.1e} over {', '.join(loaded)}")
    assert difference <= 1e-5
    assert ("merged" in loaded) == ("once" in loaded and "twice" in loaded)


def test_an_adapter_loaded_twice_is_one_adapter(exported):
    for _, loaded, _ in exported.values():
        if "twice" in loaded:
            assert torch.equal(loaded["once"], loaded["twice"])


def test_the_record_says_what_an_export_costs(exported):
    assert exported["pissa"][2]["residual_base_bytes"] > 100_000
    assert exported["converted"][2] == {"converted_rank": 16}


@pytest.mark.parametrize("fresh", [False, True])
def test_training_goes_on_from_a_saved_adapter(run, tmp_path, fresh):
    first = run("method=lora", "save_model=true", folder=tmp_path / "first")
    second = run("method=lora", f"adapter_path={tmp_path / 'first' / 'model'}", f"create_new_adapter={fresh}",
                 folder=tmp_path / "second")
    assert second["status"] == "finished", second["error"]
    assert second["loss"]["initial"] == pytest.approx(first["loss"]["final"], abs=2e-6)
    assert second["loss"]["final"] != second["loss"]["initial"]


def test_a_failed_conversion_keeps_the_training_result(settings, tmp_path):
    experiment, chosen, config = settings("method=pissa", "pissa_convert=true", "save_model=true")
    trainer = Trainer(experiment, chosen, Recorder(tmp_path))
    trainer.load({"config": config})
    trainer.fit()
    chosen._initial = {"no.such.lora_A": torch.ones(1)}  # what a renamed module would leave
    trainer.conclude()
    assert "conversion_error" in trainer.facts
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
    assert (tmp_path / "model" / "base" / "model.safetensors").exists()
