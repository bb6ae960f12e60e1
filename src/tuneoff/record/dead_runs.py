"""Dead runs: the result of a run whose process is gone, from what it left in its folder."""

from pathlib import Path

from tuneoff.record.files import (
    read_json,
    read_metrics,
    set_aside_unreadable,
    thin_curve,
    utc_now,
    write_json,
)
from tuneoff.record.recorder import Recorder
from tuneoff.record.schema import RESULT, RETRIED, RUN, SCHEMA_VERSION
from tuneoff.record.secrets import mask_record, mask_secrets


def conclude_dead_run(
    folder: Path, start: dict, status: str, error: dict, wall_seconds: float
) -> dict:
    """Write the result of a run whose process is dead, from what it left: its own result, run.json, metrics.jsonl.

    Args:
        start: what run.json would hold at least, where the process died before it wrote one.
        error: as `describe_error` says it.

    Raises:
        Busy: the process, or another, still trains there.
    """
    recorder = Recorder(folder)
    try:
        # A run.json from an earlier try of this run says the same, and more.
        run = {
            "schema_version": SCHEMA_VERSION,
            "started_at": utc_now(),
            **mask_record(start),
            **(read_json(folder / RUN) or {}),
        }
        result = {
            **run,
            **_what_is_left(folder, run, wall_seconds),
            "status": status,
            "error": mask_secrets(error),
            "finished_at": utc_now(),
        }
        for name, content in ((RUN, run), (RESULT, result)):
            set_aside_unreadable(folder / name)
            write_json(folder / name, content)
        return result
    finally:
        recorder.close()


def _what_is_left(folder: Path, run: dict, wall_seconds: float) -> dict:
    """What a dead run has measured: as its own result says if it wrote one, else as its metrics.jsonl does."""
    own = read_json(folder / RESULT) or {}
    unfinished = own.get("status") in RETRIED
    if unfinished and own.get("started_at") == run["started_at"]:
        return own  # it was stopped in an orderly way, or lost another rank, and measured
    curve = list(read_metrics(folder))
    losses = _numbers(curve, "validation_loss")
    return {
        "parameters": run.get("parameters", {}),
        "metrics": {},
        "memory": {"peak_gib": {}},
        "curve": thin_curve(curve),
        "loss": {
            "initial": losses[0] if losses else None,
            "final": None,
            "best": min(losses, default=None),
            "test": None,
        },
        "throughput": {
            "tokens_seen": max(_numbers(curve, "tokens"), default=0),
            "wall_seconds": round(wall_seconds, 3),
        },
    }


def _numbers(curve: list[dict], key: str) -> list[float]:
    """The numbers that lines have under a key; anything else is passed over."""
    values = [line.get(key) for line in curve]
    return [value for value in values if isinstance(value, int | float)]
