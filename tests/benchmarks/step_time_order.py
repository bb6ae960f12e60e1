"""Whether predicted step times are in the order of measured ones: the eleven methods of README's table, on this CPU.

Run: python tests/benchmarks/step_time_order.py [repetitions] [steps]. One thread; measured are CPU seconds of whole cycles
of steps (BAdam has each block, GaLore its refreshes), methods interleaved, medians over the repetitions. Printed are both
times of each method, their ratio, and Spearman's rank correlation.
"""

import contextlib
import gc
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from loop_overhead import ROOT, prepared

METHODS = (
    "full",
    "freeze",
    "lora",
    "dora",
    "pissa",
    "rslora",
    "loraplus",
    "galore",
    "galore_layerwise",
    "badam",
    "badam_ratio",
)
SHARED = ("batch_size=2",)
# So that the steps hold whole cycles.
OWN = {
    "galore": ("galore_update_interval=15",),
    "galore_layerwise": ("galore_update_interval=15",),
    "badam": ("badam_switch_interval=5",),
    "badam_ratio": ("badam_switch_interval=5",),
}


def list_words(method: str) -> tuple[str, ...]:
    """The settings of a method, in training as in prediction."""
    return (*SHARED, *OWN.get(method, ()))


def predict_seconds(method: str, steps: int) -> float:
    """The middle of the predicted range, in seconds a step."""
    from hydra import compose, initialize_config_dir

    from tuneoff.config import bind
    from tuneoff.predict import predict

    words = [
        "task=predict",
        "device=cpu",
        f"method={method}",
        f"max_steps={steps}",
        "data.limit=400",
        *list_words(method),
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        experiment, bound_method = bind(compose("config", overrides=words))
    return statistics.fmean(predict(experiment, bound_method)["time"]["step_seconds"])


def measure_seconds(method: str, steps: int) -> float:
    """CPU seconds a step of a run, from its first step to its last, nothing of it counted by operation."""
    with tempfile.TemporaryDirectory() as folder:
        training = prepared(method, steps, Path(folder), words=list_words(method))
        training.parts.counted_steps.clear()
        training.parts.flop_meter.start = lambda step: None
        gc.freeze()  # as a job does: BAdam collects garbage at each switch
        began = time.process_time()
        for step in range(steps):
            training.trainer.take_step(step)
        seconds = time.process_time() - began
        training.session.recorder.close()
    return seconds / steps


def main(repetitions: int = 3, steps: int = 30) -> None:
    """Print a line a method, and the correlation."""
    import torch
    from scipy.stats import spearmanr

    import tuneoff.methods  # noqa: F401

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        predicted = {method: predict_seconds(method, steps) for method in METHODS}
        measured: dict[str, list[float]] = {method: [] for method in METHODS}
        for _ in range(repetitions):
            for method in METHODS:
                measured[method].append(measure_seconds(method, steps))
    medians = {method: statistics.median(seconds) for method, seconds in measured.items()}
    print("method            predicted s  measured s  measured / predicted")
    for method in sorted(METHODS, key=medians.__getitem__):
        ratio = medians[method] / predicted[method]
        print(f"{method:16}  {predicted[method]:11.4f}  {medians[method]:10.4f}  {ratio:.2f}")
    correlation = spearmanr(
        [predicted[method] for method in METHODS], [medians[method] for method in METHODS]
    )
    print(
        f"rank correlation: {correlation.statistic:.3f} ({repetitions} repetitions, {steps} steps)"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
