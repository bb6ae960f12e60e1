"""Memory figures agree with the kernel and with the allocator's own events, phase by phase."""

import json
import statistics

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tuneoff.data import collate
from tuneoff.measure.memory_breakdown import BreakdownPeak, MemoryBreakdown
from tuneoff.measure.memory_peaks import PhasePeaks
from tuneoff.measure.throughput import PERCENTILES, Throughput
from tuneoff.training.step import train_step

MIB = 2**20


def touch(mebibytes):
    """Small blocks, which glibc keeps when they are freed."""
    return [np.ones(1000) for _ in range(mebibytes * MIB // 8000)]


def test_a_phase_after_many_freed_blocks_starts_low():
    meter = PhasePeaks(torch.device("cpu"))
    with meter.phase("train"):
        kept = touch(50)
        with meter.phase("evaluate"):
            blocks = touch(400)
            del blocks
        kept += touch(10)
    peaks = {name: seen["resident"] - meter.baseline for name, seen in meter.peaks.items()}
    assert 400 * MIB < peaks["evaluate"] < 560 * MIB
    assert 50 * MIB < peaks["train"] < 120 * MIB
    assert kept


def test_a_larger_evaluation_leaves_the_training_peak(run, tmp_path):
    settings = ["method=full", "max_steps=3", "data.path=tuneoff:docstrings", "data.limit=1500"]
    small = run(*settings, "eval_batch_size=4", folder=tmp_path / "small")
    large = run(*settings, "eval_batch_size=300", folder=tmp_path / "large")
    peaks = [result["memory"]["peak_gib"] for result in (small, large)]
    assert peaks[1]["evaluate"] > peaks[0]["evaluate"] + 0.02
    assert peaks[1]["train"] == pytest.approx(peaks[0]["train"], abs=0.03)


def test_the_breakdown_agrees_with_the_allocators_events(new_run):
    """torch.profiler's memory events, which count every allocation and free of the CPU allocator."""
    training = new_run("method=full", "batch_size=8")
    model, optimizer = training.parts.model.train(), training.parts.optimizer
    batch = collate(training.parts.order.step_rows(0), 0)
    train_step(model, optimizer, [batch], batch.label_tokens)  # states exist from here on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        train_step(model, optimizer, [batch], batch.label_tokens)
    live = MemoryBreakdown(model, optimizer)
    with live:
        train_step(model, optimizer, [batch], batch.label_tokens)
    changes = [event.nbytes() for event in events(seen) if event.name() == "[memory]"]
    allocator, height = 0, 0
    for change in changes:
        height += change
        allocator = max(allocator, height)
    start = sum(
        sum(p.untyped_storage().nbytes() for p in group)
        for group in (
            [*model.parameters(), *model.buffers()],
            [t for state in optimizer.state.values() for t in state.values()],
        )
    )
    ours = sum(live.peak().values()) - start
    assert ours == pytest.approx(allocator, abs=0.2 * MIB)
    parameters = sum(p.numel() * 4 for p in model.parameters())
    assert live.peak()["gradients"] <= parameters
    assert live.peak()["optimizer_state"] == pytest.approx(2 * parameters, rel=0.001)


def events(seen):
    """The profiler's raw events in order, which its summaries leave out."""
    return sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())


def test_only_measured_steps_count():
    meter = Throughput(warmup_steps=2)
    for seconds, measured in ((9.0, True), (9.0, True), (1.0, True), (9.0, False), (3.0, True)):
        meter.add(seconds, 100, 120, 4, measured)
    facts = meter.facts()
    assert facts["tokens_per_second"] == 50.0 and facts["padded_tokens_per_second"] == 60.0
    assert facts["measured_steps"] == 2 and facts["tokens_seen"] == 500
    assert facts["train_seconds"] == 31.0


def test_percentiles_are_those_of_a_sorted_list():
    values = np.random.default_rng(0).random(37).tolist()
    meter = Throughput(warmup_steps=0)
    for seconds in values:
        meter.add(seconds, 1, 1, 1, True)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    expected = {f"p{percent}": round(cuts[percent - 1], 5) for percent in PERCENTILES}
    assert meter.facts()["step_seconds"] == expected


def test_what_was_measured_goes_on_from_its_state():
    """`state()` holds plain JSON values, and a fresh part restored from it says the same."""
    throughput, breakdown, peaks = Throughput(1), BreakdownPeak(), PhasePeaks(torch.device("cpu"))
    for seconds in (3.0, 1.0, 2.0):
        throughput.add(seconds, 10, 12, 2, True)
    breakdown.add({"parameters": 5}, 1)
    breakdown.add({"parameters": 3}, 4)
    with peaks.phase("train"):
        peaks.by_rank = [peaks.so_far()]
    fresh = Throughput(1), BreakdownPeak(), PhasePeaks(torch.device("cpu"))
    for part, other in zip((throughput, breakdown, peaks), fresh, strict=True):
        other.restore(json.loads(json.dumps(part.state())))
    assert fresh[0].facts() == throughput.facts()
    assert fresh[1].facts() == breakdown.facts() and fresh[1].bytes == {"parameters": 3}
    assert fresh[2].peaks == peaks.by_rank[0]
