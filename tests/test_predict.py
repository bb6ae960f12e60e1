"""A prediction equals what a real step of the same code holds."""

import gc
from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import pytest
import torch
from helpers import METHODS, TINY, foreseen, quick_of
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile, record_function

from tuneoff.config import Optimizer
from tuneoff.measure.memory_breakdown import state_tensors
from tuneoff.methods import Method
from tuneoff.models.loading import load_model
from tuneoff.predict import predict
from tuneoff.predict.batches import make_worst_batch
from tuneoff.predict.predictor import Predictor
from tuneoff.training.step import Engine, summed_loss, train_step


def storages(tensors) -> dict[int, int]:
    """Bytes of the distinct storages of `tensors`."""
    parts = [
        part
        for tensor in tensors
        for part in ((tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,))
    ]
    return {part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in parts}


def state(optimizer) -> dict[int, int]:
    """Storages that the optimizer keeps."""
    return storages(tensor for _, tensor in state_tensors(optimizer))


@contextmanager
def gradients(model, optimizer):
    """Yield a list that gets the bytes of all gradients before each optimizer's step."""

    def before_step(stepping, args, kwargs):
        owners = [
            *model.parameters(),
            *(p for group in stepping.param_groups for p in group["params"]),
        ]
        found = storages(p.grad for p in owners if p.grad is not None)
        seen.append(sum(size for place, size in found.items() if place not in state(optimizer)))

    seen: list[int] = []
    hook = register_optimizer_step_pre_hook(before_step)
    yield seen
    hook.remove()


def allocated(work, before=lambda: None) -> int:
    """The most bytes that the allocator's own events show while `work(before())` goes on, since `before` began."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = before()
        with record_function("work"):
            work(made)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    began = next(event.start_ns() for event in events if event.name() == "work")
    memory = [event for event in events if event.name() == "[memory]"]
    heights = accumulate(event.nbytes() for event in memory)
    return max(
        (
            height
            for event, height in zip(memory, heights, strict=True)
            if event.start_ns() >= began
        ),
        default=0,
    )


def held(model, optimizer) -> int:
    """Bytes of the weights and of what the optimizer keeps."""
    return sum({**storages([*model.parameters(), *model.buffers()]), **state(optimizer)}.values())


def real_steps(run, method) -> dict[str, int]:
    """Three real steps on this machine: the live tensors' own bytes, and the allocator's peak in the last step."""
    model = method.prepare(load_model(run)).train()
    optimizer = method.make_optimizer(model, run)
    batch = make_worst_batch(run.batch_size, run.max_length, run.packing)
    engine = (
        Engine(partial(torch.autocast, "cpu", torch.bfloat16))
        if run.mixed_precision.value
        else Engine()
    )

    def step():
        batches = [batch] * run.gradient_accumulation_steps
        train_step(
            model, optimizer, batches, batch.label_tokens * len(batches), run.max_grad_norm, engine
        )

    with gradients(model, optimizer) as seen:
        step()
    step()
    parameters = sum(storages([*model.parameters(), *model.buffers()]).values())
    kept = sum(state(optimizer).values())
    return {
        "parameters": parameters,
        "optimizer_state": kept,
        "gradients": seen,
        "peak": held(model, optimizer) + allocated(lambda _: step()),
    }


IN_BF16 = ("full", "lora", "galore_layerwise", "badam", "badam_ratio")


def compare(run, method, peaks: bool = True) -> None:
    """Categories are equal to the byte, and with `peaks` the peak to 3 %."""
    real = real_steps(run, method)
    predictor = Predictor(run, method)
    with gradients(predictor.model, predictor.optimizer) as seen:
        predictor.train("first step", run.batch_size)
    steady = predictor.train("steady step", run.batch_size)
    timeline = [dict(live) for live in steady.live.timeline()]
    assert steady.bytes_by_category["parameters"] == real["parameters"]
    assert timeline[-1]["optimizer_state"] == real["optimizer_state"]
    assert seen == real["gradients"]
    counted = max(live["gradients"] for live in timeline)
    largest = max(
        parameter.nbytes for parameter in predictor.model.parameters() if parameter.requires_grad
    )
    # Between two optimizer steps a gradient may be there twice, once in each of two types; and one that an optimizer
    # takes inside the backward pass is gone before its step.
    assert max(largest, *seen) <= counted <= max(seen) + largest
    assert not peaks or steady.peak_bytes == pytest.approx(real["peak"], rel=0.03)


@pytest.mark.parametrize("method", quick_of(METHODS, "lora", "galore_layerwise", "badam"))
def test_a_prediction_equals_a_real_step(settings, measured, method):
    compare(*settings(f"method={method}", "galore_rank=8" if "galore" in method else "seed=0")[:2])
    measured(method, "predicted", 0.0)


@pytest.mark.parametrize("method", quick_of(IN_BF16, "full", "badam_ratio"))
def test_a_prediction_equals_a_real_step_in_bf16(settings, method):
    extra = "galore_rank=8" if "galore" in method else "seed=0"
    compare(
        *settings(f"method={method}", "pure_bf16=true", "gradient_checkpointing=true", extra)[:2]
    )


@pytest.mark.rotating
@pytest.mark.parametrize("size", ["tiny", pytest.param("smollm2_135m", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", quick_of(METHODS, "dora", "galore"))
def test_a_prediction_equals_a_real_step_of_larger_models(method, size):
    # Its width and vocabulary, and six of its thirty layers, which are all alike.
    smollm = ["max_length=32", "model.config.num_hidden_layers=6"]
    # A CPU without instructions for bfloat16 multiplies in float32, with a copy of the result that no GPU makes.
    if torch.cpu._is_avx512_bf16_supported():
        smollm.append("pure_bf16=true")
    extra = [] if size == "tiny" else smollm
    run, options = foreseen(
        f"model={size}",
        f"method={method}",
        "model.pretrained=false",
        "batch_size=2",
        "max_length=64",
        *extra,
    )
    compare(run, options)


SHARED = (
    "mixed_precision=bf16",
    "gradient_accumulation_steps=3",
    "max_grad_norm=1.0",
    "optimizer=adafactor",
    "batch_size=1",
    "weight_decay=0.1",
    "model.attention=eager",
    "packing=true",
)


@pytest.mark.parametrize("extra", quick_of(SHARED, "gradient_accumulation_steps=3", "packing=true"))
def test_a_prediction_equals_a_real_step_under_every_shared_setting(settings, extra):
    compare(*settings("method=full", extra)[:2])


@pytest.mark.parametrize(
    "method", quick_of(("full", "galore", "badam", "badam_ratio"), "galore", "badam")
)
def test_the_other_phases_equal_real_ones(settings, method):
    """The first step, one that renews (projections, the block, the mask), and an evaluation."""
    run, options, _ = settings(f"method={method}", *["galore_rank=8"] * (method == "galore"))
    model = options.prepare(load_model(run)).train()
    optimizer, batch = (
        options.make_optimizer(model, run),
        make_worst_batch(run.batch_size, run.max_length),
    )
    predictor = Predictor(run, options)

    def real(work) -> int:
        return held(model, optimizer) + allocated(work)

    def step(_):
        train_step(model, optimizer, [batch], batch.label_tokens)

    @torch.no_grad()
    def evaluate(_):
        summed_loss(model.eval(), batch)

    def switch(_):
        optimizer.enter_phase(0)
        step(_)

    found = {
        moment.name or moment.phase: moment.peak_bytes
        for moment in predictor.moments(run.batch_size)
    }
    assert found["first step"] == pytest.approx(real(step), rel=0.03)
    if method == "badam":
        assert found["switch to phase 0"] == pytest.approx(real(switch), rel=0.03)
    elif method != "full":
        optimizer.refresh_interval = 1
        assert found["refresh step"] == pytest.approx(real(step), rel=0.03)
    else:
        assert {"refresh step", "switch to phase 0"}.isdisjoint(found)
    assert found["evaluate"] == pytest.approx(real(evaluate), rel=0.03)


# ---------------------------------------------------------------- the rest of a prediction


def test_the_initialisation_of_principal_components_is_a_phase_of_its_own(settings):
    runs = {
        method: settings(f"method={method}", "model.pretrained=false")[:2]
        for method in ("lora", "pissa")
    }
    plain, principal = (Predictor(*pair).moments_before_training for pair in runs.values())
    assert [moment.phase for moment in principal] == ["prepare", "load"]
    # At least the float32 copy of a matrix and its residual, 64 x 96 each, while its components are computed.
    assert principal[0].peak_bytes >= plain[0].peak_bytes + 2 * 4 * 64 * 96
    assert principal[1].peak_bytes == plain[1].peak_bytes
    run, method = runs["pissa"]
    assert principal[0].peak_bytes == pytest.approx(
        allocated(method.prepare, lambda: load_model(run)), rel=0.03
    )


def test_a_new_method_is_predicted_without_writing_anything(settings):
    class BitFit(Method):
        def prepare(self, model):
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.ndim == 1)
            return model

    compare(settings("method=full")[0], BitFit())
    found = predict(settings("method=full")[0], BitFit())
    assert found["parameters"]["trainable"] == 7 * 64  # the norms


def test_half_precision_is_foreseen_where_there_is_no_device_for_it(settings):
    half, brain = [
        predict(*settings("method=full", f"mixed_precision={kind}")[:2])
        for kind in ("fp16", "bf16")
    ]
    assert half["peak_gib"] == brain["peak_gib"]  # both keep two bytes where autocast applies
    assert "autocast" in half["assumptions"][-1]


@pytest.mark.parametrize(
    "method", quick_of(("full", "galore", "galore_layerwise"), "galore_layerwise")
)
def test_eight_bit_states_equal_a_real_step(settings, method):
    run, options, _ = settings(
        f"method={method}", "optimizer=adamw_8bit", *["galore_rank=64"] * ("galore" in method)
    )
    found = predict(run, options)["breakdown_gib"]["optimizer_state"]
    compare(run, options, peaks=False)  # the CPU's kernels work on float32 copies
    run.optimizer = Optimizer.adamw
    assert 0 < found < 0.4 * predict(run, options)["breakdown_gib"]["optimizer_state"]


@pytest.mark.parametrize("method", quick_of(("full", "lora", "galore"), "lora"))
def test_a_mixture_in_float32_is_predicted(settings, tmp_path, method):
    """PyTorch's fake kernel of a product of groups takes bfloat16 alone."""
    from shrunk_models import shrunk_config

    shrunk_config("qwen3_moe").save_pretrained(tmp_path)
    words = ["task=predict", f"model.path={tmp_path}", "model.pretrained=false"]
    more = ["galore_rank=4"] if method == "galore" else []
    experiment, chosen, _ = settings(f"method={method}", *words, f"model.tokenizer={TINY}", *more)
    assert predict(experiment, chosen)["needed_gib"] > 0
