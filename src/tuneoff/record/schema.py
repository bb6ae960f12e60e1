"""The record's schema: the names of its files, the statuses of a run, and what a setting is for."""

SCHEMA_VERSION = 1
RUN = "run.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
LOCK = ".lock"
ANSWERS = "answers.jsonl"  # what a model generated, where it was asked to, a line a row
BENCHMARKS = (
    "benchmarks.jsonl"  # the scores of each example of lm-evaluation-harness, a line an example
)
PREDICTION = "prediction.json"
CHECKPOINTS = "checkpoints"  # the folder
MODEL_FOLDER = "model"  # the trained model, where the run saves it
LOOP = "loop.json"  # of a checkpoint: each part's state, as plain values
# A sweep that is run again retries the last four; the others are results.
RESULTS = ("finished", "out_of_memory", "predicted_out_of_memory", "diverged")
RETRIED = ("timed_out", "killed", "failed", "interrupted")
CURVE_POINTS = 200
# The families of methods, each with its heading in a chart's legend, where it has one colour in every report.
FAMILIES = {
    "full": "all weights",
    "partial": "some weights",
    "low_rank": "low-rank adapters",
    "rotation": "rotations",
    "projection": "projected gradients",
    "block": "blocks in turn",
    "prompt": "prompts",
    "other": "other",
}
# What the report must know of the settings, where omegaconf may not be installed. It is said beside each setting, in
# `config/settings.py`, and a test holds the two equal.
# Settings that change no result: two runs that differ only in these are the same run.
INCIDENTAL = (
    "family",
    "task",
    "push",
    "hub_name",
    "save_every",
    "keep_checkpoints",
    "resume",
    "rerun",
    "llamafactory",
    "progress",
    "tracker",
    "wandb_mode",
    "wandb_project",
    "wandb_entity",
    "tags",
    "tuned",
    "tuned_anyway",
    "tuning_schedule",
    "stop_after",
    "dry_run",
    "fail_fast",
    "gib",
    "device",
    "skip_if_over_gib",
    "job_memory_gib",
    "job_timeout_seconds",
    "job_stall_seconds",
    "grace_seconds",
    "jobs_per_device",
)
# Settings in which a prediction may differ from the runs that it is the prediction of.
NOT_PREDICTED = (
    "task",
    "lr",
    "epochs",
    "max_steps",
    "max_tokens",
    "max_seconds",
    "tf32",
    "deterministic",
    "compile",
    "test",
    "measure_serving",
    "serving_prompt_tokens",
    "serving_new_tokens",
    "benchmarks",
    "benchmarks_before",
    "benchmark_folder",
    "benchmark_limit",
    "benchmark_fewshot",
    "benchmark_batch_size",
)
# Settings that methods imply, with the headings of their columns.
COLUMNS = {"quantization": "Quantisation", "max_grad_norm": "Gradient clip", "patience": "Patience"}
