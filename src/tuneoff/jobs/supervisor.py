"""The supervisor: does a job in processes of its own, within limits, so that a record is left however they end.

A job has one process, or several ranks that train together. Peak memory is a process-wide figure, so jobs that share
a process poison each other; a fresh interpreter for each job would cost seconds of imports. `multiprocessing`'s
forkserver has them done once. This process imports no torch.
"""

import math
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from tuneoff.distributed.launch import get_world_size
from tuneoff.distributed.stop import interrupt_on_stop_signals
from tuneoff.jobs.failures import FailureReport, Killed, Refusal, TimedOut
from tuneoff.jobs.processes import POLL_SECONDS, RankProcess, start_processes
from tuneoff.jobs.work import Work
from tuneoff.record import METRICS, AlreadyDone, Busy, describe_error, read_status

GRACE_SECONDS = 60.0  # from SIGTERM, on which a run saves a checkpoint, to SIGKILL
ALONE_SECONDS = 15.0  # that the first rank has to see that another is gone


@dataclass
class Limits:
    """What a job may use: GiB of memory a rank, seconds in all, without a new line of metrics, and to stop in."""

    memory_gib: float | None = None
    timeout_seconds: float | None = None
    stall_seconds: float | None = None
    grace_seconds: float = GRACE_SECONDS


def run_supervised(
    work: Work, limits: Limits, log_file: Path | None = None
) -> FailureReport | None:
    """Do `work` in its own processes, and see to it that its folder holds a result then.

    Args:
        work: picklable. Of several ranks the first writes; WORLD_SIZE, RANK and their like tell each who it is and
            where the others are.
        log_file: gets all that the processes log and print; without it they print where this process does.

    Returns:
        Why the work left no result of its own, which is now recorded; None where it left one.

    Raises:
        Busy: another process trains in the folder.
        AlreadyDone: another process was quicker.
        JobFailed: work that leaves no record of a failure failed.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came; the work was stopped, and its record says `interrupted`.
    """
    earlier_result = identify_result(work)
    started = time.monotonic()
    with interrupt_on_stop_signals():
        processes = start_processes(work, limits.memory_gib, log_file)
        try:
            over_time = watch_processes(processes, work, limits)
        except BaseException as stop:
            stop_processes(processes, limits.grace_seconds)
            failure = FailureReport("interrupted", describe_stop(stop, limits))
            if identify_result(work) in (None, earlier_result):
                work.record_failure(failure.status, failure.error, time.monotonic() - started)
            # A cluster's launcher raises in a signal handler as the time limit comes: that ends the job, not the sweep.
            if not isinstance(stop, Exception):
                raise
            return failure
    raise_if_taken(processes[0])
    # A run that begins removes an earlier result.
    has_result = identify_result(work) not in (None, earlier_result)
    if over_time is None and has_result and not is_about_a_lost_rank(work, processes):
        return None
    failure = explain_end(processes)
    if over_time is not None:
        failure = FailureReport("timed_out", describe_error(over_time))
    if work.records_refusals or not isinstance(failure.cause, Refusal):
        work.record_failure(failure.status, failure.error, time.monotonic() - started)
    return failure


def raise_if_taken(first: RankProcess) -> None:
    """Raise what the first process reports of another that trains in its folder, or has done so."""
    if first.report is not None and isinstance(first.report.cause, Busy | AlreadyDone):
        raise first.report.cause


def describe_stop(stop: BaseException, limits: Limits) -> dict:
    """What a record says of work that was stopped from here, and left no result in the time it had."""
    if isinstance(stop, Exception):
        return describe_error(stop)
    reason = "stopped by the user"
    if get_world_size() > 1:
        reason = (
            f"stopped; the step did not end in grace_seconds={limits.grace_seconds:g}, "
            "as where another rank is lost"
        )
    return describe_error(KeyboardInterrupt(reason))


def identify_result(work: Work) -> tuple[int, int] | None:
    """What tells one result file from another that replaced it; None where there is none."""
    try:
        facts = (work.folder / work.result_file).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def is_about_a_lost_rank(work: Work, processes: list[RankProcess]) -> bool:
    """Whether the result says no more than that another rank is gone, and we know how that one died."""
    # A run that lives to write its result calls itself killed for this reason alone.
    return read_status(work.folder) == "killed" and any(process.died for process in processes)


def explain_end(processes: list[RankProcess]) -> FailureReport:
    """Why a job left no result: what a rank reports of itself, else which one died, else what one saw of another."""
    reports = [process.report for process in processes if process.report is not None]
    for report in reports:
        if report.status != "killed":
            return report
    dead = [index for index, process in enumerate(processes) if process.died]
    if reports and not dead:
        return reports[0]
    index = dead[0] if dead else 0
    name = "the process" if len(processes) == 1 else f"rank {index} of {len(processes)}"
    end = processes[index].describe_end()
    return FailureReport(
        "killed", describe_error(Killed(f"{name} ended by {end} and left no result"))
    )


class ChangeWatch:
    """Tells for how long a file has not changed, by a clock that nobody sets.

    The file's own time is compared with nothing but itself: it may come from another machine's clock.
    """

    def __init__(self, path: Path):
        self._path = path
        self._state = self._read_state()
        self._changed_at = time.monotonic()

    def _read_state(self) -> tuple[int, int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    def seconds_unchanged(self) -> float:
        """Seconds since a call first saw the file as it is now."""
        state = self._read_state()
        if state != self._state:
            self._state = state
            self._changed_at = time.monotonic()
        return time.monotonic() - self._changed_at


def watch_processes(processes: list[RankProcess], work: Work, limits: Limits) -> TimedOut | None:
    """Wait for the processes themselves, since a queue of a dead one stays silent; stop them when over time."""
    started = time.monotonic()
    metrics = ChangeWatch(work.folder / METRICS)
    earlier_result = identify_result(work)
    first_alone_since = math.inf
    while True:
        living = [process for process in processes if not process.has_ended()]
        if not living:
            return None
        now = time.monotonic()
        if limits.timeout_seconds and now - started > limits.timeout_seconds:
            stop_processes(processes, limits.grace_seconds)
            return TimedOut(f"not done after job_timeout_seconds={limits.timeout_seconds:g}")
        if limits.stall_seconds and metrics.seconds_unchanged() > limits.stall_seconds:
            kill_processes(processes)
            return TimedOut(
                f"no new line of metrics for job_stall_seconds={limits.stall_seconds:g}"
            )
        if processes[0] not in living:
            # The others write nothing, and may wait for the first one for ever.
            kill_processes(living)
        elif any(process.died or process.report for process in processes):
            # The first one has a moment to see that it is alone, and to record it.
            first_alone_since = min(first_alone_since, now)
            waited = now - first_alone_since > ALONE_SECONDS
            if waited and identify_result(work) in (None, earlier_result):
                kill_processes(living)
        wait([process.process.sentinel for process in living], POLL_SECONDS)


def stop_processes(processes: list[RankProcess], grace_seconds: float) -> None:
    """Stop by SIGTERM, so that a checkpoint is saved, then by SIGKILL; a second Ctrl-C kills at once."""
    try:
        for process in processes:
            process.terminate()
        processes[0].process.join(grace_seconds)
    finally:
        kill_processes(processes)


def kill_processes(processes: list[RankProcess]) -> None:
    """End them now."""
    for process in processes:
        process.kill()
