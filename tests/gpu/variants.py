"""The sections of the GPU check that try what a run can be set to: precisions, optimizers, quantisation, attention."""

import device_work
import helpers
from jobs import Check, call_in_child, run_jobs

SHELF_WORKERS = 8
FEW_MATRICES = ("galore_target=[q_proj]",)  # an SVD of each takes seconds


def small_model(check: Check) -> dict:
    """Every method on the small model in bfloat16; one answers questions, and saves adapter and merged model."""
    quick = [*check.quick_words(), "pure_bf16=true"]
    jobs = {}
    for method in helpers.METHODS:
        jobs[method] = [f"method={method}", *quick]
    answers = ["exact_match=whole", "exact_match_limit=8", "max_new_tokens=16"]
    jobs["answers"] = ["method=lora", *quick, *answers, "save_model=true", "export_merged=true"]
    return run_jobs(check, check.choose(jobs, "badam", "answers"))


def shelf(check: Check) -> dict:
    """Every choice beside README's eleven, on the small model, under bf16 autocast as a model of one's own trains."""
    quick = [*check.quick_words(), "mixed_precision=" + ("no" if check.dry else "bf16")]
    jobs = {}
    for method in (*helpers.SHELF, *helpers.FURTHER):
        jobs[method] = [f"method={method}", *quick]
    workers = 1 if check.dry else SHELF_WORKERS
    return run_jobs(check, check.choose(jobs, "vera", "lisa"), workers)


def compiled(check: Check) -> dict:
    """torch.compile beside the layers as they are, on the same rows."""
    slim = [f"model.path={check.folder / 'slim'}", *check.full_rows(4), "pure_bf16=true"]
    jobs = {}
    for method in ("full", "lora"):
        jobs[f"{method}_plain"] = [f"method={method}", *slim]
        jobs[f"{method}_compiled"] = [f"method={method}", "compile=true", *slim]
    return run_jobs(check, check.choose(jobs, "lora_plain"), workers=1)


def precisions(check: Check) -> dict:
    """fp16, bf16, float32 with and without TF32, and 8-bit and Adafactor states."""
    slim = [f"model.path={check.folder / 'slim'}", *check.full_rows(2)]
    whole = "mixed_precision=no"
    jobs = {
        "float32": ["method=full", whole, *slim],
        "bf16": ["method=full", "mixed_precision=bf16", *slim],
    }
    jobs["adafactor"] = ["method=full", "optimizer=adafactor", "pure_bf16=true", *slim]
    for method in helpers.METHODS:
        few = FEW_MATRICES if "galore" in method else ()
        if method != "badam_ratio":
            words = [f"method={method}", "optimizer=adamw_8bit", whole, *few, *slim]
            jobs[f"adamw_8bit_{method}"] = words
        if method != "galore_layerwise":
            words = [f"method={method}", "mixed_precision=fp16", "max_grad_norm=1", *few, *slim]
            jobs[f"fp16_{method}"] = words
    adafactor = ["optimizer=adafactor", "pure_bf16=true", *FEW_MATRICES, *slim]
    jobs["adafactor_galore"] = ["method=galore", *adafactor]
    jobs["tf32"] = ["method=full", "tf32=true", whole, *slim]
    return run_jobs(
        check, check.choose(jobs, "bf16", "adafactor_galore", "adamw_8bit_full", "fp16_full")
    )


def quantised(check: Check) -> dict:
    """Adapters on 4-bit and 8-bit weights with gradient checkpointing, and a merged export."""
    even = [f"model.path={check.folder / 'even'}"]
    jobs = {}
    for bits in ("4bit", "8bit"):
        for method in ("lora", "dora"):
            words = [f"method={method}", f"quantization={bits}", "pure_bf16=true"]
            words += ["gradient_checkpointing=true", *even, *check.full_rows(4)]
            jobs[f"{bits}_{method}"] = words
    merged = ["method=lora", "quantization=4bit", "pure_bf16=true", "export_merged=true"]
    jobs["4bit_merged"] = [*merged, "save_model=true", *even, *check.full_rows(2)]
    return run_jobs(check, check.choose(jobs, "4bit_merged"), workers=2)


def attention(check: Check) -> dict:
    """Each kind of attention, packing, Liger's kernels, gradient checkpointing, and which operations ran."""
    folder = check.folder / "slim"
    common = ["method=full", "pure_bf16=true", f"model.path={folder}", *check.full_rows(2)]
    jobs = {}
    for kind in ("sdpa", "eager", "flash_attention_2"):
        jobs[kind] = [*common, f"model.attention={kind}"]
    jobs["liger"] = [*common, "model.liger=true"]
    jobs["packing"] = ["method=lora", "packing=true", *check.quick_words(), "batch_size=2"]
    jobs["checkpointing"] = [*common, "gradient_checkpointing=true"]
    figures = run_jobs(check, check.choose(jobs, "eager", "packing", "checkpointing"))
    figures["kernels"] = call_in_child(
        check, "kernels", device_work.list_attention_kernels, folder, check.length
    )
    figures["shapes"] = call_in_child(check, "shapes", device_work.time_attention_shapes, check.dry)
    return figures
