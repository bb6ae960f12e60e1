"""The sections of the GPU check, in the order of their worth: a run that is cut off keeps those it came to."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import device_work
from jobs import Check, call_in_child, run_command, run_job, run_jobs

TEXT_CHARACTERS = 4000
BATCH_SIZES = (4, 1)
# Settings of the small model, on which what does not depend on its size is tried.
QUICK = ("model=tiny", "data.limit=128", "max_steps=8", "batch_size=4", "eval_batch_size=8")
FEW_MATRICES = ("galore_target=[q_proj]",)
KILLED_AFTER = 5


def user_sweep(check: Check) -> dict:
    """A user's own sweep: whether a forked job reaches the card at all."""
    return run_command(check, check.folder / "user_sweep", "method=lora,full", "max_steps=6")


def machine(check: Check) -> dict:
    """The card, its memory, and its matrix rate."""
    return call_in_child(check, "machine", device_work.describe_machine, check.dry)


def models(check: Check) -> dict:
    """The two models that the sections below train, and the rows."""
    write_rows(check)
    made = {}
    for name, layers in (("whole", check.layers), ("slim", check.slim_layers)):
        folder = check.folder / name
        made[name] = call_in_child(
            check, f"make_{name}", device_work.make_model, folder, layers, check.dry
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


def full_rows(check: Check, batch_size: int) -> list[str]:
    """Settings under which each row has max_length tokens, all of them labels, as a prediction assumes."""
    return [
        "data=json",
        f"data.path={check.folder / 'text.jsonl'}",
        "data.columns.text=text",
        "data.validation_share=0.06",
        f"max_length={check.length}",
        f"batch_size={batch_size}",
        f"eval_batch_size={batch_size}",
        f"max_steps={check.steps}",
    ]


def methods(check: Check) -> dict:
    """Every method on the 1B shape: memory by phase beside its prediction, and speed."""
    figures = {}
    for batch_size in BATCH_SIZES:
        for method in check.methods:
            name = f"{method}_{batch_size}"
            if check.left_seconds() < 30:
                figures[name] = {"status": "no time left"}
                continue
            words = [f"method={method}", f"model.path={check.model_folder(method)}"]
            words += ["pure_bf16=true", *full_rows(check, batch_size)]
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


def bare_loop(check: Check) -> dict:
    """The plain loop on the same model: what tuneoff's step and record cost."""
    folder = check.folder / "whole"
    bare = call_in_child(
        check, "bare", device_work.run_bare_loop, folder, 4, check.length, check.steps
    )
    ours = check.sections.get("methods", {}).get("full_4", {}).get("tokens_per_second")
    rate = check.sections.get("machine", {}).get("matrix_teraflops")
    if ours and bare.get("tokens_per_second"):
        bare["ours_over_bare"] = round(ours / bare["tokens_per_second"], 4)
    if rate and bare.get("teraflops"):
        bare["share_of_matrix_rate"] = round(bare["teraflops"] / rate, 4)
    return bare


def resume(check: Check) -> dict:
    """Whole, again, and killed and resumed: whether losses are equal to the last bit."""
    variants = {
        "full_float32": ["method=full"],
        "full_deterministic": ["method=full", "deterministic=true"],
        "lora_bf16": ["method=lora", "lora_dropout=0.1", "pure_bf16=true"],
        "badam_bf16": ["method=badam", "badam_switch_interval=3", "pure_bf16=true"],
        "galore": ["method=galore", "galore_update_interval=3"],
        "full_fp16": ["method=full", "mixed_precision=fp16"],
        "full_8bit": ["method=full", "optimizer=adamw_8bit", "pure_bf16=true"],
    }
    if check.dry:
        variants = {"full_float32": variants["full_float32"]}
    return {name: compare_repeats(check, name, words) for name, words in variants.items()}


def compare_repeats(check: Check, name: str, words: list[str]) -> dict:
    """The largest difference of a second run's losses, and of one that was killed and resumed."""
    quick = [*words, *QUICK, "save_every=2", "eval_every=4"]
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


def precisions(check: Check) -> dict:
    """fp16, bf16, float32 with and without TF32, and 8-bit and Adafactor states."""
    slim = [f"model.path={check.folder / 'slim'}", *full_rows(check, 2)]
    whole = "mixed_precision=no"
    jobs = {
        "float32": ["method=full", whole, *slim],
        "bf16": ["method=full", "mixed_precision=bf16", *slim],
    }
    jobs["adafactor"] = ["method=full", "optimizer=adafactor", "pure_bf16=true", *slim]
    for method in check.methods:
        few = FEW_MATRICES if "galore" in method else ()
        if method != "badam_ratio":
            words = [f"method={method}", "optimizer=adamw_8bit", whole, *few, *slim]
            jobs[f"adamw_8bit_{method}"] = words
        if method != "galore_layerwise":
            jobs[f"fp16_{method}"] = [f"method={method}", "mixed_precision=fp16", *few, *slim]
    jobs["tf32"] = ["method=full", "tf32=true", whole, *slim]
    return run_jobs(check, jobs)


def quantised(check: Check) -> dict:
    """Adapters on 4-bit and 8-bit weights, and a merged export."""
    common = ["pure_bf16=true", f"model.path={check.folder / 'slim'}", *full_rows(check, 2)]
    jobs = {}
    for bits in ("4bit", "8bit"):
        for method in ("lora", "dora"):
            jobs[f"{bits}_{method}"] = [f"method={method}", f"quantization={bits}", *common]
    merged = ["save_model=true", "export_merged=true"]
    jobs["4bit_merged"] = ["method=lora", "quantization=4bit", *merged, *common]
    return run_jobs(check, jobs, workers=2)


def attention(check: Check) -> dict:
    """Each kind of attention, packing, Liger's kernels, and which operations ran."""
    folder = check.folder / "slim"
    common = ["method=full", "pure_bf16=true", f"model.path={folder}", *full_rows(check, 2)]
    jobs = {}
    for kind in ("sdpa", "eager", "flash_attention_2"):
        jobs[kind] = [*common, f"model.attention={kind}"]
    jobs["liger"] = [*common, "model.liger=true"]
    jobs["packing"] = ["method=lora", "packing=true", *QUICK, "batch_size=2"]
    figures = run_jobs(check, jobs)
    figures["kernels"] = call_in_child(
        check, "kernels", device_work.list_attention_kernels, folder, check.length
    )
    return figures


def out_of_memory(check: Check) -> dict:
    """A run under a limit that it breaks, and one after it."""
    limit_gib = 0.75 if check.dry else 6.0
    words = ["method=full", f"model.path={check.folder / 'whole'}", *full_rows(check, 64)]
    return {
        "limited": run_job(check, "limited", *words, memory_gib=limit_gib),
        "after_it": run_job(check, "after_it", "method=lora", *QUICK),
    }


def joblib_sweep(check: Check) -> dict:
    """Four jobs by joblib on one card: one after the other, and two at a time on purpose."""
    words = ["hydra/launcher=joblib", "method=lora,full", "seed=0,1", "max_steps=5"]
    return {
        "as_shipped": run_command(check, check.folder / "joblib", *words),
        "two_a_device": run_command(check, check.folder / "joblib2", *words, "jobs_per_device=2"),
    }


# Each with the seconds that it wants.
SECTIONS: dict[str, tuple[Callable[[Check], dict], float]] = {
    "user_sweep": (user_sweep, 0),
    "machine": (machine, 0),
    "models": (models, 0),
    "methods": (methods, 0),
    "bare_loop": (bare_loop, 30),
    "resume": (resume, 60),
    "precisions": (precisions, 40),
    "quantised": (quantised, 30),
    "attention": (attention, 30),
    "out_of_memory": (out_of_memory, 30),
    "joblib": (joblib_sweep, 40),
}
