"""Progress of a sweep: a line a job while it runs, and a table at its end, both from the records."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.jobs.work import NOT_STARTED, TrainWork, Work
from tuneoff.record import RESULTS
from tuneoff.record.secrets import mask_secrets

# Of the table's lines, from the first to the last.
OUTCOMES = (
    "skipped",
    "finished",
    "predicted_out_of_memory",
    "running",
    NOT_STARTED,
    "interrupted",
    "failed",
)
ALWAYS_COUNTED = ("finished", "skipped", "failed")
_jobs_without_run = 0  # of this process; they took no time, and say nothing of the time left


def format_progress_line(
    hydra: DictConfig, job_status: str, how: str, loss: float | None, seconds: float
) -> str:
    """`[3/22] finished: method=lora seed=1  loss 2.1034  4.1 s  (about 1 min 20 s left)`.

    Args:
        how: `ran`, or why the job did not run.
    """
    global _jobs_without_run
    has_run = how == "ran"
    _jobs_without_run += not has_run
    number = hydra.job.num + 1
    total = OmegaConf.select(hydra, "sweeper.jobs")
    label = label_job(hydra.overrides.task, OmegaConf.select(hydra, "sweeper.varied"))
    word = job_status if has_run else how
    line = [f"[{number}/{total or '?'}] {word}: {label}"]
    if not has_run:
        if job_status != "finished":
            line.append(f"({job_status})")
        return "  ".join(line)
    if loss is not None:
        line.append(f"loss {loss:.4f}")
    line.append(f"{seconds:.1f} s")
    began = OmegaConf.select(hydra, "sweeper.began")
    if total and began and number < total:
        jobs_run = max(1, number - _jobs_without_run)
        seconds_each = (time.time() - began) / jobs_run
        left = format_duration(seconds_each * (total - number))
        line.append(f"(about {left} left)")
    return "  ".join(line)


def label_job(overrides: Sequence[str], varied: Sequence[str] | None) -> str:
    """A job's name among its sweep's: the overrides that not all jobs have, or all where that leaves none."""
    own = [text for text in overrides if text.partition("=")[0] in (varied or ())]
    return " ".join(mask_secrets(list(own or overrides)))


def format_duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole >= 3600:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass
class JobRow:
    """One job of a sweep: its overrides, its folder, and whether its result was there before."""

    label: str
    folder: Path
    before: bool = False
    work_type: type[Work] = TrainWork
    error: str | None = None  # what went wrong outside the run itself

    @property
    def status(self) -> str:
        """As its record says, `not started` where it has none."""
        return "failed" if self.error else self.work_type.read_status(self.folder)

    @property
    def outcome(self) -> str:
        """skipped, failed, or a status that is neither."""
        if self.before:
            return "skipped"
        return self.status if self.status in OUTCOMES else "failed"

    def describe(self) -> str:
        """What came of it, in one line."""
        has_failed = self.outcome == "failed"
        if has_failed or (self.before and self.status != "finished"):
            message = self.error or self.work_type.read_error(self.folder)
            line = message.strip().splitlines()[0]
            return f"{self.status}: {line} ({self.folder})"
        return self.work_type.describe_result(self.folder)


def format_sweep_table(rows: Sequence[JobRow]) -> str:
    """A line a job, the failed ones last, and a line with their numbers."""
    rows = sorted(rows, key=lambda row: OUTCOMES.index(row.outcome))
    outcome_width = max((len(row.outcome) for row in rows), default=0)
    label_width = max((len(row.label) for row in rows), default=0)
    lines = []
    for row in rows:
        line = f"{row.outcome:<{outcome_width}}  {row.label:<{label_width}}  {row.describe()}"
        lines.append(line.rstrip())
    counts = Counter(row.outcome for row in rows)
    counted = [name for name in OUTCOMES if counts[name] or name in ALWAYS_COUNTED]
    totals = [f"{name.replace('_', ' ')} {counts[name]}" for name in reversed(counted)]
    return "\n".join([*lines, ", ".join(totals)])


def describe_unfinished(rows: Sequence[JobRow]) -> str | None:
    """Why a sweep's exit code is 1: what its jobs did not finish, now or when they ran before; None where all did."""
    statuses = [row.status for row in rows]
    # Whatever a damaged record says, it is no result, and the same command does that job again.
    settled = (*RESULTS, "running", NOT_STARTED)
    retried = sum(status not in settled for status in statuses)
    kept = sum(status in ("out_of_memory", "diverged") for status in statuses)
    reasons = []
    if retried:
        reasons.append(f"{retried} of {len(rows)} jobs failed; the same command tries them again")
    if kept:
        reasons.append(
            f"{kept} of {len(rows)} ran out of memory or diverged; rerun=true tries them again"
        )
    return "; ".join(reasons) or None


def find_recorded_jobs(folder: Path, since: float) -> list[JobRow]:
    """The jobs that a sweeper has started below `folder` since a time (seconds of the epoch), as Hydra wrote them."""
    overrides_by_folder: dict[Path, list[str]] = {}
    for path in sorted(folder.rglob(".hydra/overrides.yaml")):
        if path.stat().st_mtime >= since:
            words = OmegaConf.load(path)
            overrides_by_folder[path.parent.parent] = [str(word) for word in words]
    common: set[str] = set()
    if overrides_by_folder:
        common = set.intersection(*map(set, overrides_by_folder.values()))
    rows = []
    for job_folder, overrides in overrides_by_folder.items():
        own = [text for text in overrides if text not in common]
        label = " ".join(mask_secrets(own or overrides))
        rows.append(JobRow(label, job_folder))
    return rows
