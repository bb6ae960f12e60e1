"""Progress of a sweep: a line a job while it runs, and a table at its end, both from the records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tuneoff.jobs.work import NOT_STARTED, TrainWork, Work
from tuneoff.record import RESULT, RESULTS, read_json, read_status
from tuneoff.record.secrets import mask_secrets
from tuneoff.sweeps.job_costs import JobCost, estimate_seconds, read_cost
from tuneoff.sweeps.launchers import count_jobs_at_once, is_local

PAUSED = "paused"  # by `stop_after`, as by a tuning that gives its budget to better candidates
# Of the table's lines, from the first to the last.
OUTCOMES = (
    "skipped",
    "finished",
    "predicted_out_of_memory",
    "running",
    NOT_STARTED,
    PAUSED,
    "interrupted",
    "failed",
)
NAMED_JOBS = 3  # in a hint
ALWAYS_COUNTED = ("finished", "skipped", "failed")
_costs: list[JobCost] = []  # of the jobs of this process


def format_progress_line(
    hydra: DictConfig, job_status: str, how: str, losses: str, seconds: float
) -> str:
    """`[3/22] finished: method=lora seed=1  validation loss 2.1034  4.1 s  (about 1 min 20 s left)`.

    Args:
        how: `ran`, or why the job did not run.
        losses: as `Work.describe_losses` gives them.
    """
    has_run = how == "ran"
    number = hydra.job.num + 1
    total = OmegaConf.select(hydra, "sweeper.jobs")
    label = label_job(hydra.overrides.task, OmegaConf.select(hydra, "sweeper.varied"))
    word = job_status if has_run else how
    line = [f"[{number}/{total or '?'}] {word}: {label}"]
    if not has_run:
        if job_status != "finished":
            line.append(f"({job_status})")
        return "  ".join(line)
    if losses:
        line.append(losses)
    line.append(f"{seconds:.1f} s")
    seconds_left = forecast_left(hydra, job_status, seconds)
    if seconds_left is not None and number < total:
        line.append(f"(about {format_duration(seconds_left)} left)")
    return "  ".join(line)


def forecast_left(hydra: DictConfig, job_status: str, seconds: float) -> float | None:
    """The seconds of the jobs behind one that has just taken `seconds`; None where nothing is known of them.

    By what the jobs of this process have taken, of which the first also started what all share.
    """
    sweeper = OmegaConf.select(hydra, "sweeper")
    work = sweeper.get("work")
    if work is None or not is_local(hydra):
        return None
    keep_cost(Path(hydra.runtime.output_dir), work, job_status, seconds)
    if not _costs:
        return None
    seconds_left = estimate_seconds(_costs, sweeper.jobs_left, sweeper.work_left)
    return seconds_left / count_jobs_at_once(hydra)


def keep_cost(folder: Path, work: float, job_status: str, seconds: float) -> None:
    """Keep what a job of this process has taken, unless it failed before it had a record of that."""
    recorded = read_cost(folder, work)
    if recorded is None:
        if job_status == "finished":  # a prediction, whose file has no times
            _costs.append(JobCost(work, fixed_seconds=seconds, train_seconds=0.0))
        return
    within_record = recorded.fixed_seconds + recorded.train_seconds
    # The first has waited for the process from which all jobs are started.
    start_seconds = max(0.0, seconds - within_record) if _costs else 0.0
    _costs.append(recorded._replace(fixed_seconds=recorded.fixed_seconds + start_seconds))


def label_job(overrides: Sequence[str], varied: Sequence[str] | None) -> str:
    """A job's name among its sweep's: the overrides that not all jobs have, or all where that leaves none."""
    own = []
    for text in overrides:
        key, _, _ = text.partition("=")
        if varied and key in varied:
            own.append(text)
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
    rerun: bool = False  # whether the sweep does again what has a result

    @property
    def status(self) -> str:
        """As its record says, `not started` where it has none."""
        if self.error:
            return "failed"
        return name_status(self.work_type.read_status(self.folder), self.folder)

    @property
    def outcome(self) -> str:
        """skipped, failed, or a status that is neither."""
        if self.before:
            return "skipped"
        return self.status if self.status in OUTCOMES else "failed"

    @property
    def keeps_earlier_result(self) -> bool:
        """Whether it failed before it began, over a result that stays and that no sweep makes again by itself."""
        is_training = issubclass(self.work_type, TrainWork)
        return is_training and self.error is not None and read_status(self.folder) in RESULTS

    @property
    def is_tried_again(self) -> bool:
        """Whether it failed, and the same command does it again; whatever a damaged record says, it is no result."""
        settled = (*RESULTS, "running", PAUSED, NOT_STARTED)
        return self.status not in settled and not self.keeps_earlier_result

    def describe(self) -> str:
        """What came of it, in one line."""
        has_failed = self.outcome == "failed"
        if has_failed or (self.before and self.status != "finished"):
            message = self.error or self.work_type.read_error(self.folder)
            line = message.strip().splitlines()[0]
            return f"{self.status}: {line} ({self.folder})"
        return self.work_type.describe_result(self.folder)


def name_status(status: str, folder: Path) -> str:
    """The status that a user reads: a run which its own tuning stopped is paused, and nothing interrupted it."""
    return PAUSED if status == "interrupted" and is_paused(folder) else status


def is_paused(folder: Path) -> bool:
    """Whether a run was stopped by `stop_after`, and can go on."""
    result = read_json(folder / RESULT) or {}
    return result.get("paused_after") is not None


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
    """Why a sweep's exit code is 1: what its jobs did not finish, now or when they ran before; None where all did.

    Of each it says what does those jobs again, and no others.
    """
    failed = [row for row in rows if row.is_tried_again]
    kept = [row for row in rows if row.keeps_earlier_result]
    settled = [row for row in rows if row.status in ("out_of_memory", "diverged")]
    reasons = []
    if failed:
        again = "the same command tries them again"
        if any(row.rerun for row in failed):
            again = "the same command without rerun=true tries them again"
        reasons.append(f"{len(failed)} of {len(rows)} jobs failed; {again}")
    if kept:
        reasons.append(
            f"{len(kept)} of {len(rows)} jobs failed over an earlier result, which is kept; {advise_rerun(kept)}"
        )
    if settled:
        reasons.append(
            f"{len(settled)} of {len(rows)} ran out of memory or diverged; {advise_rerun(settled)}"
        )
    return "; ".join(reasons) or None


def advise_rerun(rows: Sequence[JobRow]) -> str:
    """How to do these jobs again, and no others: by their own overrides."""
    named = [row.label for row in rows[:NAMED_JOBS]]
    if len(rows) > NAMED_JOBS:
        named.append("…")
    one = "" if len(rows) == 1 else "one of "
    return f"the same command with rerun=true and the settings of {one}{' | '.join(named)} does that job again"


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
