"""Published memory: what the papers say of the methods, and the shapes that their models have."""

import pytest
import torch
from helpers import ROOT, foreseen, quick_of

from tuneoff.measure.memory_peaks import GIB
from tuneoff.models.loading import build_model
from tuneoff.predict import predict
from tuneoff.predict.predictor import Predictor

# Zhao et al. 2024, table 2: weights and optimizer states in bf16, in G. No one G fits: by the row of full fine-tuning
# it is 10^9 for the smallest and the largest size, and 2^30 for those between. Size: rank, G, and the totals.
PUBLISHED = {
    "60m": (128, 1e9, {"full": 0.36, "lora": 0.36, "galore": 0.24}),
    "130m": (256, GIB, {"full": 0.76, "lora": 0.80, "galore": 0.52}),
    "350m": (256, GIB, {"full": 2.06, "lora": 1.76, "galore": 1.22}),
    "1b": (512, 1e9, {"full": 7.80, "lora": 6.17, "galore": 4.38}),
}


def kept(*overrides: str, steps: int = 1) -> dict[str, int]:
    """Bytes of weights and optimizer states after a step, and of the most gradients in it."""
    run, method = foreseen("pure_bf16=true", "batch_size=1", "max_length=16", *overrides)
    predictor = Predictor(run, method)
    timeline = [
        [dict(live) for live in predictor.train("step", 1).live.timeline()] for _ in range(steps)
    ][-1]
    return {
        **timeline[-1],
        "gradients": max(live["gradients"] for live in timeline),
        "moving": max(live["gradients"] + live["optimizer_state"] for live in timeline),
    }


def meta_model(*overrides: str):
    """The model of a prediction before its method, in no memory."""
    with torch.device("meta"):
        return build_model(foreseen(*overrides)[0])


# The larger a model, the longer its prediction.
SIZES = quick_of(PUBLISHED, "60m")


@pytest.mark.parametrize("size", SIZES)
def test_full_fine_tuning_needs_what_the_galore_paper_says(size):
    _, unit, published = PUBLISHED[size]
    found = kept("method=full", f"model=llama_{size}")
    assert (found["parameters"] + found["optimizer_state"]) / unit == pytest.approx(
        published["full"], rel=0.05
    )


@pytest.mark.parametrize("size", SIZES)
def test_lora_needs_what_the_galore_paper_says(size):
    """Its LoRA trains a second embedding and head; ours holds adapters and their states in float32, which is named."""
    rank, unit, published = PUBLISHED[size]
    words = "method=lora", f"model=llama_{size}", f"lora_rank={rank}"
    found = kept(*words, "additional_target=[embed_tokens,lm_head]")
    run, method = foreseen("pure_bf16=true", *words)
    with torch.device("meta"):
        adapters = sum(
            p.numel() for p in method.prepare(build_model(run)).parameters() if p.requires_grad
        )
    in_bf16 = found["parameters"] + found["optimizer_state"] - 3 * 2 * adapters
    assert in_bf16 / unit == pytest.approx(published["lora"], rel=0.05)


@pytest.mark.parametrize("size", SIZES)
def test_galore_needs_what_its_paper_says_and_what_its_estimate_leaves_out(size):
    """Table 1: projector mr and states 2nr for an m x n matrix (m <= n), table 6: three quarters of LoRA's states.

    That is 1.5 r (m + n), right for square matrices. It leaves out r (n - m) / 2 of each that is longer, and, as it
    counts embeddings and head in, a half of one of their two states, which no projection makes smaller.
    """
    rank, unit, published = PUBLISHED[size]
    found = kept("method=galore", f"model=llama_{size}", f"galore_rank={rank}")
    named = list(meta_model(f"model=llama_{size}").named_parameters())
    low = [sorted(p.shape) for name, p in named if "layers" in name and p.ndim == 2]
    ends = sum(p.numel() for name, p in named if "layers" not in name and p.ndim == 2)
    norms = sum(p.numel() for _, p in named if p.ndim == 1)
    assert found["optimizer_state"] == 2 * (
        sum(m * rank + 2 * n * rank for m, n in low) + 2 * ends + 2 * norms
    )
    left_out = 2 * (sum(rank * (n - m) // 2 for m, n in low) + ends // 2 + 2 * norms)
    total = found["parameters"] + found["optimizer_state"]
    assert (total - left_out) / unit == pytest.approx(published["galore"], rel=0.05)
    assert total / unit > 1.05 * published["galore"]  # without the terms it would not be


@pytest.mark.parametrize("depth", quick_of((4, 8, 16), 4))
def test_badam_needs_two_bytes_a_weight_and_sixteen_a_weight_of_a_block(depth):
    """Luo et al. 2024, section 2.2: 2M + 16M/D bytes for M weights in D blocks."""
    overrides = ["model=llama_60m", f"model.config.num_hidden_layers={depth}"]
    found = kept("method=badam", *overrides, steps=2)
    model = meta_model(*overrides)
    layers = sum(p.numel() for p in model.model.layers.parameters())
    assert found["parameters"] == pytest.approx(
        2 * sum(p.numel() for p in model.parameters()), rel=1e-4
    )
    # A bf16 gradient is still there beside the first of the float32 ones.
    assert found["moving"] == pytest.approx(16 * layers / depth, rel=0.03)


@pytest.mark.slow
def test_badam_on_llama3_8b_needs_what_its_paper_says():
    """Luo et al. 2024, table 3: gradients 0.9 GB, optimizer 2.6 GB, 23.5 GB in all with what CUDA itself takes."""
    run, method = foreseen(
        "method=badam",
        "model=llama3_8b",
        "pure_bf16=true",
        "gradient_checkpointing=true",
        "batch_size=2",
        "max_length=1024",
    )
    found = predict(run, method)
    most = {
        part: max(moment[part] for moment in found["timeline"]["gib"]) * GIB / 1e9
        for part in ("gradients", "optimizer_state")
    }
    assert most["gradients"] == pytest.approx(0.9, abs=0.05)
    assert most["optimizer_state"] == pytest.approx(2.6, abs=0.05)
    assert found["needed_gib"] * GIB / 1e9 == pytest.approx(23.5, rel=0.05)
    assert found["peak_gib"]["train"] > found["peak_gib"]["evaluate"]


# What the public checkpoints hold, and the papers' shapes by hand.
WEIGHTS = {
    "llama_60m": 58_073_600,
    "llama_130m": 134_105_856,
    "llama_350m": 367_969_280,
    "llama_1b": 1_339_082_752,
    "llama_7b": 6_738_415_616,
    "llama2_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_7b": 7_615_616_512,
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize(
    "shape",
    sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml") if path.stem != "tiny"),
)
def test_a_shape_has_as_many_weights_as_the_model_it_is_named_for(shape):
    assert (
        sum(parameter.numel() for parameter in meta_model(f"model={shape}").parameters())
        == WEIGHTS[shape]
    )
