"""A prediction equals what a real step of the same code holds, and what the papers say of the methods' memory."""
import gc
from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import pytest
import torch
from conftest import METHODS, ROOT
from hydra import compose, initialize_config_dir
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from tuneoff import entry
from tuneoff.config import ConfigError, bind
from tuneoff.live import state_tensors
from tuneoff.meters import GIB
from tuneoff.models import build_model, load_model
from tuneoff.predict import predict
from tuneoff.predict.chart import draw
from tuneoff.predict.predictor import Predictor, worst_batch
from tuneoff.predict.search import largest
from tuneoff.record import read_json
from tuneoff.step import Engine, train_step


def foreseen(*overrides: str):
    """(experiment, method) as `train.py task=predict` binds them."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return bind(compose("config", overrides=["task=predict", *overrides]))


def storages(tensors) -> dict[int, int]:
    """Bytes of the distinct storages of `tensors`."""
    parts = [part for tensor in tensors
             for part in ((tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,))]
    return {part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in parts}


def state(optimizer) -> dict[int, int]:
    """Storages that the optimizer keeps."""
    return storages(tensor for _, tensor in state_tensors(optimizer))


@contextmanager
def gradients(model, optimizer):
    """Yield a list that gets the bytes of all gradients before each optimizer's step."""
    def before_step(stepping, args, kwargs):
        owners = [*model.parameters(), *(p for group in stepping.param_groups for p in group["params"])]
        found = storages(p.grad for p in owners if p.grad is not None)
        seen.append(sum(size for place, size in found.items() if place not in state(optimizer)))

    seen: list[int] = []
    hook = register_optimizer_step_pre_hook(before_step)
    yield seen
    hook.remove()


def real_steps(run, method) -> dict[str, int]:
    """Three real steps on this machine: the live tensors' own bytes, and the allocator's peak in the last step."""
    model = method.prepare(load_model(run)).train()
    optimizer = method.make_optimizer(model, run)
    batch = worst_batch(run.batch_size, run.max_length, run.packing)
    engine = Engine(partial(torch.autocast, "cpu", torch.bfloat16)) if run.mixed_precision.value else Engine()

    def step():
        batches = [batch] * run.gradient_accumulation_steps
        train_step(model, optimizer, batches, batch.label_tokens * len(batches), run.max_grad_norm, engine)

    with gradients(model, optimizer) as seen:
        step()
    step()
    parameters = sum(storages([*model.parameters(), *model.buffers()]).values())
    kept = sum(state(optimizer).values())
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    heights = accumulate(event.nbytes() for event in events if event.name() == "[memory]")
    return {"parameters": parameters, "optimizer_state": kept, "gradients": seen,
            "peak": max(heights) + parameters + kept}


def compare(run, method) -> None:
    """Categories are equal to the byte, the peak to 3 %."""
    real = real_steps(run, method)
    predictor = Predictor(run, method)
    with gradients(predictor.model, predictor.optimizer) as seen:
        predictor.train("first step", run.batch_size)
    steady = predictor.train("steady step", run.batch_size)
    timeline = [dict(live) for live in steady.live.timeline()]
    assert steady.bytes["parameters"] == real["parameters"]
    assert timeline[-1]["optimizer_state"] == real["optimizer_state"]
    assert seen == real["gradients"]
    counted = max(live["gradients"] for live in timeline)
    # Between two optimizer steps a gradient may be there twice, once in each of two types.
    largest = max(parameter.nbytes for parameter in predictor.model.parameters())
    assert max(seen) <= counted <= max(seen) + largest
    assert steady.peak == pytest.approx(real["peak"], rel=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_equals_a_real_step(settings, method):
    compare(*settings(f"method={method}", "galore_rank=8" if "galore" in method else "seed=0")[:2])


@pytest.mark.parametrize("method", ["full", "lora", "galore_layerwise", "badam", "badam_ratio"])
def test_a_prediction_equals_a_real_step_in_bf16(settings, method):
    extra = "galore_rank=8" if "galore" in method else "seed=0"
    compare(*settings(f"method={method}", "pure_bf16=true", "gradient_checkpointing=true", extra)[:2])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "smollm2_135m"])
@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_equals_a_real_step_of_larger_models(method, size):
    extra = [] if size == "tiny" else ["pure_bf16=true", "max_length=32"]
    run, options = foreseen(f"model={size}", f"method={method}", "model.pretrained=false", "batch_size=2",
                            "max_length=64", *extra)
    compare(run, options)


@pytest.mark.parametrize("extra", ["mixed_precision=bf16", "gradient_accumulation_steps=3", "max_grad_norm=1.0",
                                   "optimizer=adafactor", "batch_size=1", "weight_decay=0.1", "model.attention=eager",
                                   "packing=true"])
def test_a_prediction_equals_a_real_step_under_every_shared_setting(settings, extra):
    compare(*settings("method=full", extra)[:2])


# ---------------------------------------------------------------- the papers' figures
def kept(*overrides: str) -> dict[str, int]:
    """Bytes of weights and optimizer states between two steps, and of the most gradients."""
    run, method = foreseen("pure_bf16=true", "batch_size=1", "max_length=16", *overrides)
    predictor = Predictor(run, method)
    predictor.train("first step", 1)
    timeline = [dict(live) for live in predictor.train("steady step", 1).live.timeline()]
    return {**timeline[-1], "gradients": max(live["gradients"] for live in timeline),
            "moving": max(live["gradients"] + live["optimizer_state"] for live in timeline)}


@pytest.mark.parametrize("size, published", [("60m", 0.36), ("130m", 0.76), ("350m", 2.06), ("1b", 7.80)])
def test_full_fine_tuning_needs_what_the_galore_paper_says(size, published):
    """Zhao et al. 2024, table 2: weights and Adam's states in bf16. Its G fits 10^9 for some sizes, 2^30 for others."""
    found = kept("method=full", f"model=llama_{size}")
    total = found["parameters"] + found["optimizer_state"]
    assert min(abs(total / unit - published) for unit in (1e9, GIB)) < 0.05 * published


@pytest.mark.parametrize("size, rank, published", [("60m", 128, 0.36), ("130m", 256, 0.80), ("350m", 256, 1.76)])
def test_lora_needs_what_the_galore_paper_says(size, rank, published):
    """Its LoRA trains a second embedding and head; ours holds adapters and their states in float32, which is named."""
    found = kept("method=lora", f"model=llama_{size}", f"lora_rank={rank}", "additional_target=[embed_tokens,lm_head]")
    run, method = foreseen("pure_bf16=true", "method=lora", f"model=llama_{size}", f"lora_rank={rank}")
    with torch.device("meta"):
        adapters = sum(p.numel() for p in method.prepare(build_model(run)).parameters() if p.requires_grad)
    in_bf16 = found["parameters"] + found["optimizer_state"] - 3 * 2 * adapters
    assert min(abs(in_bf16 / unit - published) for unit in (1e9, GIB)) < 0.05 * published


@pytest.mark.parametrize("size, rank", [("60m", 128), ("130m", 256)])
def test_galore_keeps_what_its_paper_s_formula_says(size, rank):
    """Weights mn, projector mr and states 2nr for an m x n matrix (m <= n), table 1; two states of all that is left."""
    found = kept("method=galore", f"model=llama_{size}", f"galore_rank={rank}")
    with torch.device("meta"):
        named = list(build_model(foreseen(f"model=llama_{size}")[0]).named_parameters())
    low = [sorted(p.shape) for name, p in named if "layers" in name and p.ndim == 2]
    rest = sum(p.numel() for name, p in named if not ("layers" in name and p.ndim == 2))
    assert found["optimizer_state"] == 2 * (sum(m * rank + 2 * n * rank for m, n in low) + 2 * rest)


@pytest.mark.parametrize("depth", [4, 8, 16])
def test_badam_needs_two_bytes_a_weight_and_sixteen_a_weight_of_a_block(depth):
    """Luo et al. 2024, section 2.2: 2M + 16M/D bytes for M weights in D blocks."""
    overrides = ["model=llama_60m", f"model.config.num_hidden_layers={depth}"]
    found = kept("method=badam", *overrides)
    with torch.device("meta"):
        model = build_model(foreseen(*overrides)[0])
    layers = sum(p.numel() for p in model.model.layers.parameters())
    assert found["parameters"] == pytest.approx(2 * sum(p.numel() for p in model.parameters()), rel=1e-4)
    # A bf16 gradient is still there beside the first of the float32 ones.
    assert found["moving"] == pytest.approx(16 * layers / depth, rel=0.03)


def test_badam_on_llama3_8b_needs_what_its_paper_says():
    """Luo et al. 2024, table 3: gradients 0.9 GB, optimizer 2.6 GB, 23.5 GB in all with what CUDA itself takes."""
    run, method = foreseen("method=badam", "model=llama3_8b", "pure_bf16=true", "gradient_checkpointing=true",
                           "batch_size=2", "max_length=1024")
    found = predict(run, method)
    predictor_states = found["breakdown_gib"]["optimizer_state"] * GIB / 1e9
    assert predictor_states == pytest.approx(2.6, abs=0.05)
    assert found["needed_gib"] * GIB / 1e9 == pytest.approx(23.5, rel=0.05)
    assert found["peak_gib"]["train"] > found["peak_gib"]["evaluate"]


# ---------------------------------------------------------------- the rest of a prediction
def test_the_initialisation_of_principal_components_is_a_phase_of_its_own(settings):
    plain, principal = [Predictor(*settings(f"method={method}")[:2]).before for method in ("lora", "pissa")]
    assert [moment.phase for moment in principal] == ["prepare", "load"]
    # At least the float32 copy of a matrix and its residual, 64 x 96 each, while its components are computed.
    assert principal[0].peak >= plain[0].peak + 2 * 4 * 64 * 96
    assert principal[1].peak == plain[1].peak


def test_eight_bit_states_are_foreseen_without_a_device(settings):
    bits = {kind: predict(*settings("method=full", f"optimizer={kind}")[:2])["breakdown_gib"]["optimizer_state"]
            for kind in ("adamw", "adamw_8bit")}
    assert bits["adamw_8bit"] < 0.3 * bits["adamw"]
    predict(*settings("method=galore", "galore_rank=8", "optimizer=adamw_8bit")[:2])


def test_the_largest_batch_is_the_one_before_the_first_that_does_not_fit(settings):
    run, method, _ = settings("method=lora", "gib=0.6")
    found = predict(run, method)["largest_batch"]
    tried = {int(rows): needed for rows, needed in found["needed_gib"].items()}
    assert tried[found["batch_size"]] <= 0.6 < tried[found["batch_size"] + 1]
    again = Predictor(run, method)
    again.train("first step", 4)
    assert again.train("steady step", found["batch_size"]).rounded / GIB == pytest.approx(
        tried[found["batch_size"]] - 0.5, abs=1e-3)


@pytest.mark.parametrize("answer", [0, 1, 2, 7, 1000])
def test_the_search_finds_any_answer(answer):
    found, tried = largest(lambda rows: rows**1.1, (answer + 0.5)**1.1, start=4, without_rows=0.0)
    assert found == answer and len(tried) < 12


def test_weights_that_are_quantised_are_refused(settings, tmp_path, debug_model):
    (tmp_path / "config.json").write_text((debug_model / "config.json").read_text().replace(
        "{", '{"quantization_config": {}, ', 1))
    run, method, _ = settings("method=lora", f"model.path={tmp_path}", "model.pretrained=false")
    with pytest.raises(ConfigError, match="quantised"):
        predict(run, method)


@pytest.mark.parametrize("key, message", [("hidden_sise=8", "no such size of llama; did you mean hidden_size"),
                                          ("model_type=lama", "no model type")])
def test_a_shape_that_transformers_does_not_know_is_refused(key, message):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run, method = bind(compose("config", overrides=["task=predict", "model=llama_60m", "method=full",
                                                        f"++model.config.{key}"]))
    with pytest.raises(ConfigError, match=message):
        predict(run, method)


def test_a_prediction_is_no_result(settings, tmp_path):
    run, method, config = settings("method=full", "task=predict")
    written = entry.perform(run, method, tmp_path, {"identity": "0", "config": config})
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.json"]
    found = read_json(tmp_path / "prediction.json")
    assert found == written and found["config"] == config
    assert (found["status"], found["method"]) == ("predicted", "full")
    assert set(found["peak_gib"]) == {"prepare", "load", "train", "evaluate"}
    assert 100 < len(found["timeline"]["gib"]) <= 200
    heights = [sum(moment.values()) for moment in found["timeline"]["gib"]]
    assert max(heights) == pytest.approx(found["peak_gib"]["train"], abs=3e-4)
    assert draw(found["timeline"], tmp_path).read_text().startswith("<svg")


@pytest.mark.parametrize("limit, status", [(0.5001, "predicted_out_of_memory"), (2.0, "finished")])
def test_a_run_that_would_not_fit_is_recorded_and_not_started(settings, tmp_path, limit, status):
    run, method, config = settings("method=full", f"skip_if_over_gib={limit}", "max_steps=1")
    result = entry.perform(run, method, tmp_path, {"identity": "0", "config": config})
    assert result["status"] == status and result == read_json(tmp_path / "result.json")
    assert (result["prediction"]["needed_gib"] > limit) == (status == "predicted_out_of_memory")
    assert (tmp_path / "metrics.jsonl").exists() == (status == "finished")


def test_a_shape_trains_from_scratch_with_the_shipped_tokenizer(run):
    sizes = [f"model.config.{key}" for key in ("hidden_size=32", "intermediate_size=48", "num_hidden_layers=2")]
    result = run("model=llama_60m", "model.path=null", "model.pretrained=false", "method=full", *sizes)
    assert result["status"] == "finished", result["error"]
    with pytest.raises(ConfigError, match="vocab_size"):
        run("model=llama_60m", "model.path=null", "model.pretrained=false", "method=full", *sizes,
            "model.config.vocab_size=100", folder=None)
