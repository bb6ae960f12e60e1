"""Captions on costs: what memory, speed, serving and predictions mean, and how they were measured."""

from collections.abc import Iterator

from tuneoff.record.judgement import LEAST_MEASURED_STEPS
from tuneoff.report.cells import format_figure
from tuneoff.report.compare import Comparison
from tuneoff.report.records import as_number
from tuneoff.report.rows import first_known
from tuneoff.report.text import cut_name, format_range


def describe_measurement(comparison: Comparison) -> Iterator[str]:
    """Yield what memory and speed mean, and where they were measured."""
    measures = set()
    baselines = []
    for row in comparison.rows:
        for run in row.finished.values():
            if run.get("memory.measure"):
                measures.add(cut_name(str(run.get("memory.measure"))))
            baseline_gib = run.number("memory.baseline_gib")
            if baseline_gib is not None:
                baselines.append(baseline_gib)
    if not measures:
        return
    names = " or ".join(sorted(measures))
    before = max(baselines, default=0)
    share = (
        f" (of resident memory up to {format_figure(before, '.2f')} before the model is loaded)"
        if before
        else ""
    )
    yield (
        f"Peak memory: the highest over seeds, {names}, GiB of 2³⁰ bytes{share}; "
        f"tokens/s: non-padding tokens of train steps alone{_describe_measured_steps(comparison)}."
    )


def _describe_measured_steps(comparison: Comparison) -> str:
    """Over how many steps speed was measured, and what its mark means."""
    counts = {row.measured_steps for row in comparison.rows if row.measured_steps is not None}
    if not counts:
        return ""
    text = f", over {format_range(counts)} measured steps a run"
    if min(counts) < LEAST_MEASURED_STEPS:
        text += f" (†: fewer than {LEAST_MEASURED_STEPS}, too few for a rate)"
    return text


def describe_serving(comparison: Comparison) -> Iterator[str]:
    """Yield how answering was measured."""
    prompt = as_number(first_known(comparison.rows, "serving.prompt_tokens"))
    new = as_number(first_known(comparison.rows, "serving.new_tokens"))
    if prompt is not None and new is not None:
        yield (
            f"Prefill and decoding: one greedy answer of {new:.0f} tokens to a prompt of {prompt:.0f}, after a "
            "warm-up; not merged where it does not say so."
        )


def describe_prediction(comparison: Comparison) -> Iterator[str]:
    """Yield what a predicted figure is the figure of."""
    if any(row.prediction for row in comparison.rows):
        yield (
            "Predicted: tensors alone, for a batch whose rows have max_length tokens; card needed: with CUDA's "
            "rounding and context."
        )
