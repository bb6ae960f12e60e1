"""The sections of the GPU check, in the order of their worth: a run that is cut off keeps those it came to."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import device_work
from jobs import Check, call_in_child, run_command, run_job
from variants import attention, compiled, precisions, quantised, shelf, small_model

TEXT_CHARACTERS = 4000
BATCH_SIZES = (4, 1)
# Model, method and batch size.
BARE_LOOPS = (("whole", "lora", 4), ("whole", "full", 4), ("slim", "full", 4), ("slim", "full", 1))
KILLED_AFTER = 5


def user_sweep(check: Check) -> dict:
    """A user's own sweep: whether a forked job reaches the card at all."""
    return run_command(check, check.folder / "user_sweep", "method=lora,full")


def machine(check: Check) -> dict:
    """The card, its memory, and its matrix rate."""
    return call_in_child(check, "machine", device_work.describe_machine, check.dry)


def make_models(check: Check) -> dict:
    """The models that the sections below train, and the rows."""
    write_rows(check)
    shape = device_work.DRY if check.dry else device_work.LLAMA_1B
    even = device_work.DRY if check.dry else device_work.EVEN_1B
    models = {
        "whole": (check.layers, shape),
        "slim": (check.slim_layers, shape),
        "even": (check.slim_layers, even),
    }
    made = {}
    for name, (layers, own_shape) in models.items():
        folder = check.folder / name
        made[name] = call_in_child(
            check, f"make_{name}", device_work.make_model, folder, layers, own_shape
        )
    return made


def write_rows(check: Check) -> None:
    """Write Python's own library as rows of text."""
    rows = []
    most = 15 if check.dry else 220
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        content = path.read_text(errors="ignore")
        for start in range(0, len(content), TEXT_CHARACTERS):
            rows.append(json.dumps({"text": content[start : start + TEXT_CHARACTERS]}))
    (check.folder / "text.jsonl").write_text("\n".join(rows[:most]))


def methods(check: Check, batch_size: int) -> dict:
    """Every method on the 1B shape: memory by phase beside its prediction, and speed."""
    figures = {}
    for method in check.methods(batch_size):
        name = f"{method}_{batch_size}"
        if check.left_seconds() < 30:
            figures[name] = {"status": "no time left"}
            continue
        words = [f"method={method}", f"model.path={check.model_folder(method)}"]
        words += ["pure_bf16=true", *check.full_rows(batch_size)]
        figures[name] = run_job(check, name, *words)
        predicted = check.predictions.get(name)
        figures[name]["against_prediction"] = compare_peaks(figures[name], predicted)
    return figures


def compare_peaks(figures: dict, predicted: dict | None) -> dict | None:
    """Measured and predicted GiB by phase, with the difference in per cent; None where nothing was foreseen of it."""
    # Resident memory, as a CPU run's, is not what is predicted.
    if not predicted or figures.get("measure") != "allocated":
        return None
    compared = {}
    for phase, foreseen_gib in predicted["peak_gib"].items():
        measured_gib = figures["peak_gib"].get(phase)
        if measured_gib is not None:
            percent = 100 * (measured_gib / foreseen_gib - 1)
            compared[phase] = [measured_gib, foreseen_gib, round(percent, 2)]
    return compared


def bare_loops(check: Check) -> dict:
    """The plain loop on the same models: what tuneoff's step and record cost, and the share of the matrix rate."""
    loops = {}
    for model, method, batch_size in BARE_LOOPS[: 1 if check.dry else None]:
        for reads in (True, False):
            name = f"{method}_{batch_size}_{model}_{'read' if reads else 'unread'}"
            loop = device_work.BareLoop(method, batch_size, check.length, check.steps, reads)
            folder = check.folder / model
            loops[name] = call_in_child(
                check, f"bare_{name}", device_work.run_bare_loop, folder, loop
            )
    rate = check.sections.get("machine", {}).get("matrix_teraflops")
    for method in ("full", "lora"):
        bare = loops.get(f"{method}_4_whole_read", {})
        ours = check.sections.get("methods_4", {}).get(f"{method}_4", {}).get("tokens_per_second")
        if ours and bare.get("tokens_per_second"):
            bare["ours_over_bare"] = round(ours / bare["tokens_per_second"], 4)
        if rate and bare.get("teraflops"):
            bare["share_of_matrix_rate"] = round(bare["teraflops"] / rate, 4)
        if "ours_over_bare" in bare and "share_of_matrix_rate" in bare:
            share = bare["ours_over_bare"] * bare["share_of_matrix_rate"]
            bare["our_share_of_matrix_rate"] = round(share, 4)
    return loops


def galore_refresh(check: Check) -> dict:
    """Seconds of a renewal of GaLore's subspace, exact and iterated, for the matrices of a layer."""
    return call_in_child(check, "refresh", device_work.time_refreshes, check.dry)


def resume(check: Check) -> dict:
    """Whole, again, and killed and resumed: whether losses are equal to the last bit."""
    variants = {
        "full_float32": ["method=full"],
        "full_deterministic": ["method=full", "deterministic=true"],
        "lora_bf16": ["method=lora", "lora_dropout=0.1", "pure_bf16=true"],
        "full_bf16": ["method=full", "pure_bf16=true"],
        "badam_bf16": ["method=badam", "badam_switch_interval=3", "pure_bf16=true"],
        "badam_ratio": ["method=badam_ratio", "badam_switch_interval=3"],
        "galore": ["method=galore", "galore_update_interval=3"],
        "galore_layerwise": ["method=galore_layerwise", "galore_update_interval=3"],
        "full_fp16": ["method=full", "mixed_precision=fp16"],
        "full_8bit": ["method=full", "optimizer=adamw_8bit", "pure_bf16=true"],
    }
    chosen = check.choose(variants, "full_float32")
    with ThreadPoolExecutor(check.workers) as pool:
        repeats = pool.map(partial(compare_repeats, check), chosen, chosen.values())
        return dict(zip(chosen, repeats, strict=True))


def compare_repeats(check: Check, name: str, words: list[str]) -> dict:
    """The largest difference of a second run's losses, and of one that was killed and resumed."""
    quick = [*words, *check.quick_words(), "save_every=2", "eval_every=4"]
    whole = run_job(check, f"{name}_whole", *quick)
    if whole["status"] != "finished":
        return whole
    again = run_job(check, f"{name}_again", *quick)
    killed = run_job(check, f"{name}_killed", *quick, last_step=KILLED_AFTER)
    resumed = run_job(check, f"{name}_killed", *quick, "resume=auto")
    return {
        "status": f"{killed['status']}, then {resumed['status']}",
        "again": largest_difference(whole["losses"], again["losses"]),
        "resumed": largest_difference(whole["losses"], resumed["losses"]),
    }


def largest_difference(losses: list[float], others: list[float]) -> float | None:
    """Between two runs, step by step; None where they have not equally many steps."""
    if len(losses) != len(others):
        return None
    return max(abs(loss - other) for loss, other in zip(losses, others, strict=True))


def out_of_memory(check: Check) -> dict:
    """A batch that no card holds, a run under a limit that it breaks, and one after them."""
    limit_gib = 0.75 if check.dry else 6.0
    whole = f"model.path={check.folder / 'whole'}"
    figures = {}
    if not check.dry:  # a CPU's memory would be filled
        rows = [*check.full_rows(2048), "eval_batch_size=1", "pure_bf16=true"]
        figures["too_large"] = run_job(check, "too_large", "method=full", whole, *rows)
    rows = check.full_rows(128 if check.dry else 64)
    figures["limited"] = run_job(
        check, "limited", "method=full", whole, *rows, memory_gib=limit_gib
    )
    figures["after_it"] = run_job(check, "after_it", "method=lora", *check.quick_words())
    return figures


def joblib_sweep(check: Check) -> dict:
    """Four jobs by joblib on one card: one after the other, and two at a time on purpose."""
    seeds = "seed=0" if check.dry else "seed=0,1"
    words = ["hydra/launcher=joblib", "method=lora,full", seeds]
    return {
        "as_shipped": run_command(check, check.folder / "joblib", *words),
        "two_a_device": run_command(check, check.folder / "joblib2", *words, "jobs_per_device=2"),
    }


def ranks(check: Check) -> dict:
    """Two ranks on one card, which are refused; on the CPU beside it, by gloo; and what they tell beside NCCL."""
    words = ["method=lora", "num_processes=2"]
    figures = {"on_one_card": run_job(check, "two_ranks", *words, *check.quick_words())}
    if not check.dry:
        figures["on_the_cpu"] = run_command(
            check, check.folder / "gloo", *words, CUDA_VISIBLE_DEVICES=""
        )
    figures["beside_nccl"] = call_in_child(
        check, "nccl", device_work.gather_beside_the_device, check.dry
    )
    return figures


# Each with the seconds that it wants.
SECTIONS: dict[str, tuple[Callable[[Check], dict], float]] = {
    "user_sweep": (user_sweep, 0),
    "machine": (machine, 0),
    "models": (make_models, 0),
    "methods_4": (partial(methods, batch_size=4), 0),
    "bare_loops": (bare_loops, 40),
    "galore_refresh": (galore_refresh, 20),
    "resume": (resume, 60),
    "small_model": (small_model, 40),
    "shelf": (shelf, 40),
    "compiled": (compiled, 40),
    "precisions": (precisions, 40),
    "quantised": (quantised, 30),
    "attention": (attention, 30),
    "out_of_memory": (out_of_memory, 40),
    "joblib": (joblib_sweep, 40),
    "methods_1": (partial(methods, batch_size=1), 30),
    "ranks": (ranks, 30),
}
