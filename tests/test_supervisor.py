"""A job in a child of the forkserver: what it sees, what it may use, and the record it leaves however it ends."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers import START, call_work, hang, hanging_launcher, left_of_session, session

from tuneoff.config import ConfigError
from tuneoff.jobs import supervisor
from tuneoff.jobs.failures import JobFailed
from tuneoff.jobs.supervisor import Limits
from tuneoff.record import LOCK, METRICS, AlreadyDone, Busy, read_json, write_json

NONE = Limits()


@pytest.fixture(scope="module", autouse=True)
def no_nohup():
    """Where the tests run under nohup, their processes would inherit that SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- work for a child
def finish(folder: Path, **more) -> None:
    write_json(folder / "result.json", {"status": "finished", **more})


def look_around(folder: Path) -> None:
    import torch

    finish(
        folder,
        seen=os.environ.get("SEEN"),
        inherited=os.environ.get("INHERITED"),
        cwd=os.getcwd(),
        argv=sys.argv,
        threads=torch.get_num_threads(),
        main=getattr(sys.modules["__main__"], "__file__", None),
    )


def fail(error: BaseException) -> None:
    print("the last words")
    raise error


def begin_and_fail(folder: Path) -> None:
    (folder / "result.json").unlink()
    raise ValueError("no good")


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def allocate(folder: Path, gib: float) -> None:
    import torch

    before = time.perf_counter()
    finish(
        folder, sum=float(torch.ones(int(gib * 2**28)).sum()), seconds=time.perf_counter() - before
    )


def write_with_an_old_clock(folder: Path) -> None:
    for step in range(1, 8):
        (folder / METRICS).write_text("x" * step)
        os.utime(folder / METRICS, (step, step))
        time.sleep(0.3)
    finish(folder)


def stop_the_forkserver_too(number: int) -> None:
    os.kill(os.getppid(), number)
    os.kill(os.getpid(), number)
    time.sleep(60)


def finish_on_sigterm(folder: Path) -> None:
    def saved(number, frame):
        write_json(
            folder / "result.json",
            {"status": "interrupted", "loss": {"final": 2.5}, "started_at": "then"},
        )
        os._exit(0)

    signal.signal(signal.SIGTERM, saved)
    write_json(folder / "run.json", {"started_at": "then"})
    time.sleep(60)


def raise_busy(kind: type[Exception]) -> None:
    raise kind("taken")


@pytest.fixture
def job(tmp_path):
    """`job(work, …)` runs it and returns the record."""

    def run(work, *arguments, limits=NONE, **options):
        supervisor.run_supervised(call_work(tmp_path, work, *arguments), limits, **options)
        return read_json(tmp_path / "result.json")

    return run


# ---------------------------------------------------------------- what it sees
@pytest.mark.slow
def test_each_job_sees_its_own_environment(job, tmp_path, monkeypatch):
    monkeypatch.setenv("INHERITED", "kept")
    seen = []
    for value, threads in (("first", "1"), ("second", "2"), (None, "1")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setenv("SEEN", value) if value else monkeypatch.delenv("SEEN")
        folder = tmp_path / str(value)
        folder.mkdir()
        monkeypatch.chdir(folder)
        found = job(look_around, tmp_path)
        assert (
            found["cwd"] == str(folder)
            and found["argv"] == sys.argv
            and found["inherited"] == "kept"
        )
        assert found["main"] is None, "the main file of this program ran again"
        seen.append((found["seen"], found["threads"]))
    assert seen == [("first", 1), ("second", 2), (None, 1)]


@pytest.mark.serial
def test_a_job_starts_in_well_under_a_second(job, tmp_path):
    job(finish, tmp_path)  # the first may wait for the imports
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        job(finish, tmp_path)
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[2] < 0.5, seconds


def test_the_launching_process_imports_no_torch():
    script = (
        "import sys\nfrom tuneoff.cli import main\nfrom tuneoff.jobs import processes\n"
        "from tuneoff.sweeps import job, sweeper, tuning\n"
        "processes.start_forkserver()\nsys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# ---------------------------------------------------------------- how it ends
@pytest.mark.parametrize("error", [ValueError("no good"), SystemExit(3), KeyboardInterrupt("odd")])
def test_what_a_job_raises_is_a_record(job, tmp_path, error):
    result = job(fail, error, log_file=tmp_path / "run.log")
    assert result["status"] == "failed" and result["error"]["type"] == type(error).__name__
    assert result["error"]["message"] == str(error) and "in fail" in result["error"]["traceback"]
    assert {key: result[key] for key in START} == START
    assert result["loss"]["final"] is None and result["curve"] == []
    assert "the last words" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")]
)
def test_a_killed_job_is_a_record(job, number, how):
    result = job(die, number)
    assert result["status"] == "killed" and how in result["error"]["message"]


def test_an_earlier_result_is_not_taken_for_this_one(job, tmp_path):
    assert job(finish, tmp_path)["status"] == "finished"
    # A job that dies before it began has touched nothing, and is told apart from the one that finished.
    with pytest.raises(JobFailed, match=r"SIGKILL.* keeps its earlier result"):
        job(die, signal.SIGKILL)
    assert read_json(tmp_path / "result.json")["status"] == "finished"
    assert job(begin_and_fail, tmp_path)["status"] == "failed"
    assert job(die, signal.SIGKILL)["status"] == "killed"


def test_memory_is_limited(job, tmp_path):
    assert job(allocate, tmp_path, 0.25, limits=Limits(memory_gib=1.2))["sum"] == 2**26
    (tmp_path / "result.json").unlink()
    result = job(allocate, tmp_path, 1.2, limits=Limits(memory_gib=1.2))
    assert "can't allocate memory" in result["error"]["message"]
    assert job(allocate, tmp_path, 1.2)["sum"] == pytest.approx(
        1.2 * 2**28
    )  # no limit is left behind


@pytest.mark.serial
def test_a_job_over_time_is_stopped(job, tmp_path):
    started = time.perf_counter()
    result = job(hang, tmp_path, limits=Limits(timeout_seconds=1))
    assert result["status"] == "timed_out" and "job_timeout_seconds=1" in result["error"]["message"]
    assert 1 <= time.perf_counter() - started < 4


def test_a_job_over_time_keeps_what_it_measured(job, tmp_path):
    result = job(finish_on_sigterm, tmp_path, limits=Limits(timeout_seconds=1))
    assert result["status"] == "timed_out" and result["loss"]["final"] == 2.5


def finish_late_on_sigterm(folder: Path) -> None:
    """Takes 1.5 seconds to save what it has, as a large model's checkpoint takes longer."""
    try:
        time.sleep(60)
    finally:
        time.sleep(1.5)
        (folder / "saved").touch()


@pytest.mark.parametrize(("grace_seconds", "saves"), [(0.2, False), (30.0, True)])
def test_a_job_has_its_grace_to_save_a_checkpoint(job, tmp_path, grace_seconds, saves):
    limits = Limits(timeout_seconds=0.5, grace_seconds=grace_seconds)
    result = job(finish_late_on_sigterm, tmp_path, limits=limits)
    assert result["status"] == "timed_out"
    assert (tmp_path / "saved").exists() is saves


@pytest.mark.serial
def test_a_job_without_new_lines_is_stopped(job, tmp_path):
    started = time.perf_counter()
    result = job(hang, tmp_path, 6, limits=Limits(stall_seconds=1.2))
    assert (
        1.8 < time.perf_counter() - started < 8
    )  # six lines take 1.8 s: it was not stopped while it wrote
    assert result["status"] == "timed_out" and "job_stall_seconds=1.2" in result["error"]["message"]
    assert result["curve"][-1]["step"] == 6 and result["throughput"]["tokens_seen"] == 60


def test_a_clock_that_is_set_stops_no_job(job, tmp_path):
    """The metrics lie on a machine whose clock is decades behind, as far as their times say."""
    result = job(write_with_an_old_clock, tmp_path, limits=Limits(stall_seconds=1.2))
    assert result["status"] == "finished", result["error"]


def test_the_forkserver_outlives_what_stops_a_process_group(job, tmp_path):
    """The job hears the signal by itself, and reports it."""
    result = job(stop_the_forkserver_too, signal.SIGHUP)
    assert (result["status"], result["error"]["type"]) == ("interrupted", "StopSignal")


def refuse() -> None:
    raise ConfigError("lr", 0.5, "must be another")


def test_a_refusal_comes_back_as_it_was_raised(job, tmp_path):
    """A sweep's job records it; a single run, whose ranks they are, raises it and touches no record."""
    assert job(refuse)["error"]["message"] == "lr=0.5: must be another"
    before = (tmp_path / "result.json").read_bytes()
    work = call_work(tmp_path, refuse)
    with patch.object(type(work), "records_refusals", False):
        failure = supervisor.run_supervised(work, NONE)
    error = failure.cause.to_error()
    assert (error.key, error.value, str(error)) == ("lr", "0.5", "lr=0.5: must be another")
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize("kind", [Busy, AlreadyDone])
def test_a_job_taken_by_others_leaves_no_result(job, tmp_path, kind):
    with pytest.raises(kind, match="taken"):
        job(raise_busy, kind)
    assert not (tmp_path / "result.json").exists()


def test_a_living_run_gets_no_result_from_us(job, tmp_path):
    with (tmp_path / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            job(die, signal.SIGKILL)
    assert not (tmp_path / "result.json").exists()


# ---------------------------------------------------------------- the launching process ends
@pytest.fixture
def launcher(tmp_path):
    """A process of its own whose job hangs."""
    with hanging_launcher(tmp_path) as process:
        yield process


@pytest.mark.slow
def test_sigkill_of_the_launching_process_leaves_nothing(launcher):
    assert len(session(launcher.pid)) >= 3  # itself, the forkserver, the job
    launcher.kill()
    launcher.wait()
    assert left_of_session(launcher.pid, seconds=2) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_launching_process_marks_its_job(launcher, tmp_path, number):
    """A closed terminal sends SIGHUP to all its processes, the job and its forkserver too."""
    to_all = number in (signal.SIGINT, signal.SIGHUP)
    os.killpg(launcher.pid, number) if to_all else launcher.send_signal(number)
    # As the interpreter ends of an uncaught KeyboardInterrupt, or of another exception.
    assert launcher.wait(10) == (-signal.SIGINT if number == signal.SIGINT else 1)
    assert (
        "KeyboardInterrupt" if number == signal.SIGINT else "StopSignal"
    ) in launcher.stderr.read()
    assert read_json(tmp_path / "result.json")["status"] == "interrupted"
