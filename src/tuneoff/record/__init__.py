"""The record: what a run leaves on disk, written and read here alone. Standard library only."""
from tuneoff.record.files import (
    finite,
    flatten,
    now,
    read_json,
    read_metrics,
    thin,
    write_json,
    write_lines,
)
from tuneoff.record.recorder import (
    AlreadyDone,
    Busy,
    Recorder,
    conclude,
    describe_error,
    is_locked,
    status,
    write_prediction,
)
from tuneoff.record.schema import (
    ANSWERS,
    CURVE_POINTS,
    INCIDENTAL,
    LOCK,
    METRICS,
    PREDICTION,
    RESULT,
    RESULTS,
    RETRIED,
    RUN,
    SCHEMA_VERSION,
)

__all__ = ["ANSWERS", "AlreadyDone", "Busy", "CURVE_POINTS", "INCIDENTAL", "LOCK", "METRICS", "PREDICTION", "RESULT",
           "RESULTS", "RETRIED", "RUN", "Recorder", "SCHEMA_VERSION", "conclude", "describe_error", "finite", "flatten",
           "is_locked", "now", "read_json", "read_metrics", "status", "thin", "write_json", "write_lines",
           "write_prediction"]
