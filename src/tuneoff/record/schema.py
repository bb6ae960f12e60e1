"""The record's schema: the names of its files, the statuses of a run, and what a setting is for."""

SCHEMA_VERSION = 1
RUN, METRICS, RESULT, LOCK = "run.json", "metrics.jsonl", "result.json", ".lock"
ANSWERS = "answers.jsonl"  # what a model generated, where it was asked to, a line a row
PREDICTION = "prediction.json"
# A sweep that is run again retries the last four; the others are results.
RESULTS = ("finished", "out_of_memory", "predicted_out_of_memory", "diverged")
RETRIED = ("timed_out", "killed", "failed", "interrupted")
CURVE_POINTS = 200
# Config keys that do not change a result: two runs that differ only in these are the same run.
INCIDENTAL = (
    "tracker",
    "wandb_mode",
    "wandb_project",
    "tags",
    "save_every",
    "keep_checkpoints",
    "resume",
    "rerun",
    "progress",
    "task",
    "gib",
    "skip_if_over_gib",
    "tuned",
    "fail_fast",
    "job_memory_gib",
    "job_timeout_seconds",
    "job_stall_seconds",
)
