"""What a sweep tells its user: a line a job while it runs, and a table at its end, both from the records."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.record import PREDICTION, RESULT, RETRIED, read_json, read_status

ORDER = (
    "skipped",
    "finished",
    "predicted_out_of_memory",
    "running",
    "not started",
    "interrupted",
    "failed",
)
_skipped = 0  # jobs of this process that took no time, and say nothing of the time left


def format_progress_line(
    hydra: DictConfig, job_status: str, how: str, loss: float | None, seconds: float
) -> str:
    """`[3/22] finished: method=lora seed=1  loss 2.1034  4.1 s  (about 1 min 20 s left)`."""
    global _skipped
    _skipped += how != "ran"
    number, total = hydra.job.num + 1, OmegaConf.select(hydra, "sweeper.jobs")
    began = OmegaConf.select(hydra, "sweeper.began")
    name = label_job(hydra.overrides.task, OmegaConf.select(hydra, "sweeper.varied"))
    words = [f"[{number}/{total or '?'}] {job_status if how == 'ran' else how}: {name}"]
    if how == "ran":
        words += [f"loss {loss:.4f}"] if loss is not None else []
        words.append(f"{seconds:.1f} s")
        if total and began and number < total:
            each = (time.time() - began) / max(1, number - _skipped)
            words.append(f"(about {format_duration(each * (total - number))} left)")
    elif job_status != "finished":
        words.append(f"({job_status})")
    return "  ".join(words)


def label_job(overrides: Sequence[str], varied: Sequence[str] | None) -> str:
    """A job's name among its sweep's: the overrides that not all jobs have, or all where that leaves none."""
    return " ".join(
        text for text in overrides if text.partition("=")[0] in (varied or ())
    ) or " ".join(overrides)


def format_duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


@dataclass
class JobRow:
    """One job of a sweep: its overrides, its folder, and whether its result was there before."""

    job: str
    folder: Path
    before: bool = False
    predicts: bool = False
    error: str | None = None  # what went wrong outside the run itself

    @property
    def status(self) -> str:
        """As its record says, `not started` where it has none."""
        if self.error:
            return "failed"
        if self.predicts:
            return "finished" if (self.folder / PREDICTION).exists() else "not started"
        return read_status(self.folder) or "not started"

    @property
    def outcome(self) -> str:
        """skipped, failed, or a status that is neither."""
        if self.before:
            return "skipped"
        return self.status if self.status in ORDER else "failed"

    def line(self) -> str:
        """What came of it, in one line."""
        foreseen = read_json(self.folder / PREDICTION) if self.predicts and not self.error else None
        if foreseen:
            return format_prediction_line(foreseen)
        result = read_json(self.folder / RESULT) or {}
        loss = (result.get("loss") or {}).get("final")
        said = f"loss {loss:.4f}" if loss is not None else ""
        if self.outcome == "failed" or (self.before and self.status != "finished"):
            error = result.get("error") or {}
            message = self.error or f"{error.get('type')}: {error.get('message')}"
            said = f"{self.status}: {message.strip().splitlines()[0]} ({self.folder})"
        return said


def format_prediction_line(foreseen: dict) -> str:
    """`fits 24 GiB, largest batch 3  needs 20.1 GiB = peak 19.6 (parameters 14.9, …) + CUDA's own 0.5`."""
    batch, cuda = foreseen.get("largest_batch"), foreseen["cuda"]
    fits = (
        f"{'fits' if foreseen['needed_gib'] <= batch['gib'] else 'too large for'} {batch['gib']:g} GiB, "
        f"largest batch {batch['batch_size']:4}  "
        if batch
        else ""
    )
    parts = ", ".join(
        f"{part.replace('_', ' ')} {gib:.2f}" for part, gib in foreseen["breakdown_gib"].items()
    )
    own = cuda["rounding_gib"] + cuda["context_gib"]
    return (
        f"{fits}needs {foreseen['needed_gib']:6.2f} GiB = peak {foreseen['needed_gib'] - own:.2f} ({parts}) + "
        f"CUDA's own {own:.2f}"
    )


def format_sweep_table(rows: Sequence[JobRow]) -> str:
    """A line a job, the failed ones last, and a line with their numbers."""
    rows = sorted(rows, key=lambda row: ORDER.index(row.outcome))
    first, second = (
        max((len(getattr(row, name)) for row in rows), default=0) for name in ("outcome", "job")
    )
    lines = [f"{row.outcome:<{first}}  {row.job:<{second}}  {row.line()}".rstrip() for row in rows]
    counts = Counter(row.outcome for row in rows)
    counted = [name for name in ORDER if counts[name] or name in ("finished", "skipped", "failed")]
    return "\n".join(
        [
            *lines,
            ", ".join(f"{name.replace('_', ' ')} {counts[name]}" for name in reversed(counted)),
        ]
    )


def describe_unfinished(rows: Sequence[JobRow]) -> str | None:
    """Why a sweep's exit code is 1: what its jobs did not finish, now or when they ran before; None where all did."""
    retried = sum(row.error is not None or row.status in RETRIED for row in rows)
    kept = sum(row.error is None and row.status in ("out_of_memory", "diverged") for row in rows)
    said = (
        [f"{retried} of {len(rows)} jobs failed; the same command tries them again"]
        if retried
        else []
    )
    said += (
        [f"{kept} of {len(rows)} ran out of memory or diverged; rerun=true tries them again"]
        if kept
        else []
    )
    return "; ".join(said) or None


def find_recorded_jobs(folder: Path, since: float) -> list[JobRow]:
    """The jobs that a sweeper has started below `folder` since a time (seconds of the epoch), as Hydra wrote them."""
    files = [
        path
        for path in sorted(folder.rglob(".hydra/overrides.yaml"))
        if path.stat().st_mtime >= since
    ]
    jobs = {path.parent.parent: [str(text) for text in OmegaConf.load(path)] for path in files}
    common = set.intersection(*map(set, jobs.values())) if jobs else set()
    return [
        JobRow(
            " ".join(text for text in overrides if text not in common) or " ".join(overrides), job
        )
        for job, overrides in jobs.items()
    ]
