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

from tuneoff.config import ConfigError, bind
from tuneoff.live import state_tensors
from tuneoff.meters import GIB
from tuneoff.models import load_model
from tuneoff.predict import predict
from tuneoff.predict.predictor import Predictor, worst_batch
from tuneoff.predict.search import largest
from tuneoff.step import Engine, train_step

SHAPE = ["model=llama3_8b", "pure_bf16=true"]


def foreseen(*overrides: str):
    """(experiment, method) as `train.py task=predict` binds them."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return bind(compose("config", overrides=["task=predict", *overrides]))


def storages(tensors) -> dict[int, int]:
    """Bytes of the distinct storages of `tensors`."""
    parts = [part for tensor in tensors for part in ((tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,))]
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
    batch = worst_batch(run.batch_size, run.max_length)
    engine = Engine(partial(torch.autocast, "cpu", torch.bfloat16)) if run.mixed_precision.value else Engine()

    def step():
        batches = [batch] * run.gradient_accumulation_steps
        train_step(model, optimizer, batches, batch.label_tokens * len(batches), run.max_grad_norm, engine)

    with gradients(model, optimizer) as seen:
        step()
    step()
    parameters, kept = (sum(found.values()) for found in (storages([*model.parameters(), *model.buffers()]), state(optimizer)))
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    heights = accumulate(event.nbytes() for event in events if event.name() == "[memory]")
    return {"parameters": parameters, "optimizer_state": kept, "gradients": seen, "peak": max(heights) + parameters + kept}


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


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_equals_a_real_step_in_bf16(settings, method):
    extra = "galore_rank=8" if "galore" in method else "seed=0"
    compare(*settings(f"method={method}", "pure_bf16=true", "gradient_checkpointing=true", extra)[:2])


@pytest.mark.parametrize("extra", ["mixed_precision=bf16", "gradient_accumulation_steps=3", "max_grad_norm=1.0",
                                   "optimizer=adafactor", "batch_size=1", "weight_decay=0.1", "model.attention=eager"])
def test_a_prediction_equals_a_real_step_under_every_shared_setting(settings, extra):
    compare(*settings("method=full", extra)[:2])
