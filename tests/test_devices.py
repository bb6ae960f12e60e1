"""Which devices or cores a job beside others gets, and a job's ranks between them; on folders in place of a driver's."""

import logging
import os
import threading
import time

import pytest
from omegaconf import OmegaConf

from tuneoff.config import ConfigError
from tuneoff.distributed import visible
from tuneoff.distributed.visible import visible_devices
from tuneoff.jobs import devices
from tuneoff.jobs.device_locks import warn_once
from tuneoff.jobs.devices import Share, assign_devices, check_enough_devices, hold_device
from tuneoff.sweeps.launchers import count_jobs_at_once

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def _own_locks(monkeypatch, tmp_path):
    monkeypatch.setattr("tuneoff.jobs.device_locks.gettempdir", lambda: str(tmp_path / "locks"))
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.01)
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """`driver(3)`: a machine whose driver shows three GPUs; `driver(0)`: one without a driver."""
    folder = tmp_path / "driver"
    monkeypatch.setattr(visible, "DRIVER", folder)
    monkeypatch.setattr(visible, "DEVICE_FILES", tmp_path / "dev")
    monkeypatch.setattr(visible, "which", lambda name: None)
    visible._count_by_lister.cache_clear()

    def make(count: int):
        for index in range(count):
            gpu = folder / f"0000:{index:02x}:00.0"
            gpu.mkdir(parents=True)
            (gpu / "information").write_text(f"Model: \t H100\nGPU UUID:   \t GPU-{index}abc-1\n")
        return folder

    yield make
    visible._count_by_lister.cache_clear()  # what a made-up lister answered is for no other test


# ---------------------------------------------------------------- what is visible
@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2,0", ["2", "0"]),
        (" 1 , 3", ["1", "3"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,2", ["0"]),
        ("1,9,2", ["1"]),
        ("1,1", []),
        ("01", ["1"]),
        ("GPU-2abc-1", ["GPU-2abc-1"]),
        ("GPU-2abc-1,GPU-0abc", ["GPU-2abc-1", "GPU-0abc"]),
        ("GPU-2abc-1,GPU-2abc-1", []),
        ("GPU-2abc-1,1", ["GPU-2abc-1"]),
        ("MIG-8a1b,MIG-GPU-8a1b/2/0", ["MIG-8a1b", "MIG-GPU-8a1b/2/0"]),
    ],
)
def test_devices_are_those_that_cuda_would_show(driver, monkeypatch, written, seen):
    """Each form of CUDA_VISIBLE_DEVICES, as CUDA reads it: up to the first name of no device, and none twice."""
    driver(4)
    if written is not None:
        monkeypatch.setenv(VISIBLE, written)
    assert visible_devices() == seen


def test_devices_are_counted_where_the_drivers_folder_is_missing(driver, monkeypatch, tmp_path):
    driver(0)
    assert visible_devices() == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert visible_devices() == ["0", "1"]
    for path in (tmp_path / "dev").iterdir():
        path.unlink()
    lister = tmp_path / "nvidia-smi"
    lister.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100'\n")
    lister.chmod(0o755)
    monkeypatch.setattr(visible, "which", lambda name: str(lister))
    visible._count_by_lister.cache_clear()
    assert visible_devices() == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "1")
    assert visible_devices() == ["1"]
    visible._count_by_lister.cache_clear()


# ---------------------------------------------------------------- jobs side by side
def nested(shares: list[Share], before: str) -> list[str]:
    """What each of these jobs sees, one inside the other, each started from an environment as it was `before`."""
    if not shares:
        return []
    os.environ[VISIBLE] = before
    with assign_devices(shares[0]):
        own = os.environ[VISIBLE]
        return [own, *nested(shares[1:], before)]


def test_each_job_gets_a_device_of_its_own(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,6")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert nested([Share(), Share()], "4,6") == ["4", "6"]
    monkeypatch.setenv(VISIBLE, "4,6")
    with assign_devices(Share()):
        assert os.environ[VISIBLE] == "4" and "OMP_NUM_THREADS" not in os.environ
    assert os.environ[VISIBLE] == "4,6"
    with assign_devices(Share(uses_devices=False)):
        assert os.environ[VISIBLE] == "4,6", "a prediction takes none"


@pytest.mark.parametrize("names", ["7", "GPU-8a1b", "4,6"])
def test_a_job_too_many_waits_until_a_device_is_free(monkeypatch, caplog, names):
    """Also for the only one: two jobs on it would each measure the other."""
    count = len(names.split(","))
    monkeypatch.setenv(VISIBLE, names)
    got: list[str] = []

    def take_one() -> None:
        with assign_devices(Share()):
            got.append(os.environ[VISIBLE])

    surplus = threading.Thread(target=take_one)
    with assign_devices(Share(ranks=count)):
        os.environ[VISIBLE] = names
        surplus.start()
        time.sleep(0.2)
        assert not got
    surplus.join(10)
    # Two devices come free one after the other, and it takes the one it sees first.
    assert len(got) == 1 and got[0] in names.split(",")
    waits = [record.message for record in caplog.records if "this job waits" in record.message]
    assert len(waits) == 1, "said once"


def test_jobs_that_share_are_spread_evenly(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,6")
    two = Share(jobs_per_device=2)
    assert nested([two] * 4, "4,6") == ["4", "6", "4", "6"]
    # One that wants a device for itself does not come to where another is.
    monkeypatch.setenv(VISIBLE, "4,6")
    assert nested([two, Share()], "4,6") == ["4", "6"]
    with assign_devices(two):
        os.environ[VISIBLE] = "4"
        with assign_devices(two):
            pass
        assert devices.lock_devices(["4"], Share(), devices.ExitStack()) == []


def test_a_job_alone_on_a_device_keeps_out_one_that_left_the_first_place(monkeypatch):
    """Of two that share, the first may end before the second."""
    monkeypatch.setenv(VISIBLE, "4")
    two = Share(jobs_per_device=2)
    first = devices.ExitStack()
    second = devices.ExitStack()
    assert devices.lock_devices(["4"], two, first) == devices.lock_devices(["4"], two, second)
    first.close()
    assert devices.lock_devices(["4"], Share(), devices.ExitStack()) == []
    second.close()
    with devices.ExitStack() as stack:
        assert devices.lock_devices(["4"], Share(), stack) == ["4"]


def test_the_ranks_of_a_job_get_a_device_each(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,6,7")
    with assign_devices(Share(ranks=2)):
        assert os.environ[VISIBLE] == "4,6"
        with devices.ExitStack() as stack:
            assert devices.lock_devices(["4", "6", "7"], Share(ranks=2), stack) == []
            assert devices.lock_devices(["4", "6", "7"], Share(), stack) == ["7"]


def test_more_ranks_than_devices_are_refused(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,6")
    message = "num_processes=3: must be at most 2, one for each GPU that is visible here"
    for jobs_per_device in (1, 2):
        with (
            pytest.raises(ConfigError, match=message),
            assign_devices(Share(ranks=3, jobs_per_device=jobs_per_device)),
        ):
            pass
    monkeypatch.setenv(VISIBLE, "")
    check_enough_devices(3)  # on cores


def test_jobs_without_devices_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.setattr("tuneoff.jobs.devices.available_cores", lambda: 8)
    for share, threads in (
        (Share(jobs_at_once=3), "2"),
        (Share(ranks=2), "4"),
        (Share(ranks=2, jobs_at_once=2), "2"),
    ):
        with assign_devices(share):
            assert os.environ["OMP_NUM_THREADS"] == threads
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with assign_devices(Share(jobs_at_once=3)):
        assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("names", "workers", "shared", "of_four", "gpus"),
    [("4,6,7", 3, 6, 1, 1), ("4", 1, 2, 1, 1), ("", 8, 8, 2, 0)],
)
def test_launchers_start_as_many_jobs_as_there_is_room_for(
    monkeypatch, names, workers, shared, of_four, gpus
):
    monkeypatch.setenv(VISIBLE, names)
    monkeypatch.setattr("tuneoff.jobs.devices.available_cores", lambda: 8)
    cfg = OmegaConf.create(
        {
            "one": "${workers:1,1}",
            "shared": "${workers:1,2}",
            "of_four": "${workers:4,1}",
            "gpus": "${gpus:1,1}",
            "half": "${gpus:1,2}",
            "ranks": "${gpus:2,2}",
        }
    )
    assert (cfg.one, cfg.shared, cfg.of_four) == (workers, shared, of_four)
    assert (cfg.gpus, cfg.half, cfg.ranks) == (gpus, gpus / 2, 2 * gpus)


# ---------------------------------------------------------------- a run that was started by itself
def test_a_single_run_takes_a_free_device_or_says_that_it_shares(monkeypatch, caplog):
    monkeypatch.setenv(VISIBLE, "4,6")
    with hold_device(0, choose=True):
        assert os.environ[VISIBLE] == "4"
        os.environ[VISIBLE] = "4,6"
        with hold_device(0, choose=True):
            assert os.environ[VISIBLE] == "6" and not caplog.records
            os.environ[VISIBLE] = "4,6"
            with hold_device(0, choose=True):
                assert os.environ[VISIBLE] == "4,6"
                assert "another run of yours is on 4, 6" in caplog.records[0].message
        with devices.ExitStack() as stack:
            assert devices.lock_devices(["4"], Share(), stack) == [], "a sweep's job keeps off"
    assert os.environ[VISIBLE] == "4,6"


def test_a_launchers_rank_holds_its_own_device(monkeypatch, caplog):
    monkeypatch.setenv(VISIBLE, "4,6")
    with hold_device(1, choose=False):
        assert os.environ[VISIBLE] == "4,6"
        with devices.ExitStack() as stack:
            assert devices.lock_devices(["4", "6"], Share(), stack) == ["4"]
    monkeypatch.setenv(VISIBLE, "")
    with caplog.at_level(logging.WARNING), hold_device(0, choose=True):
        assert os.environ[VISIBLE] == "" and not caplog.records


# ---------------------------------------------------------------- locks
def test_an_index_and_a_uuid_of_one_device_are_one_lock(driver):
    driver(2)
    with devices.ExitStack() as stack:
        assert devices.lock_devices(["GPU-1abc-1"], Share(), stack) == ["GPU-1abc-1"]
        assert devices.lock_devices(["0", "1"], Share(), stack) == ["0"]


MIG = "MIG-GPU-8a1b/1/0,MIG-GPU-8a1b/2/0"


def test_a_device_may_have_slashes_in_its_name_and_any_length():
    for names in (MIG, f"GPU-{'x' * 300},GPU-{'y' * 300}"):
        assert nested([Share(), Share()], names) == names.split(",")


def test_locks_lie_where_only_this_user_writes(monkeypatch, tmp_path):
    """Another user's folder of our name is left alone, and the locks go to the cache."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TUNEOFF_CACHE", str(cache))
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.setattr("tuneoff.jobs.devices.is_taken_beyond", lambda device, places: False)
    with assign_devices(Share()):
        [lock] = list(tmp_path.rglob("*.lock"))
        assert lock.parent.parent == tmp_path / "locks"
        assert lock.parent.stat().st_mode & 0o777 == 0o700
    lock.unlink()
    lock.parent.chmod(0o777)
    monkeypatch.setenv(VISIBLE, "0,1")
    with assign_devices(Share()):
        assert os.environ[VISIBLE] == "0"
        [lock] = list(tmp_path.rglob("*.lock"))
        assert lock.parent.parent == cache


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(28, "full")])
def test_an_error_of_a_lock_fails_no_job(monkeypatch, caplog, error):
    """Nor does the job wait for ever; it says that it may share its device."""

    def fail(*arguments, **options):
        raise error

    for broken in ("pathlib.Path.open", "tuneoff.jobs.device_locks.flock"):
        monkeypatch.setenv(VISIBLE, "0,1")
        caplog.clear()
        warn_once.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(broken, fail)
            with assign_devices(Share()):
                assert os.environ[VISIBLE] == "0"
        assert len(caplog.records) == 1 and "may share" in caplog.text


@pytest.mark.parametrize(("n_jobs", "jobs"), [(None, 1), (3, 3), (-1, 8), (-2, 7), (-20, 1)])
def test_jobs_at_once_are_counted_as_joblib_counts_them(monkeypatch, n_jobs, jobs):
    monkeypatch.setattr("tuneoff.sweeps.launchers.available_cores", lambda: 8)
    launcher = {} if n_jobs is None else {"n_jobs": n_jobs}
    assert count_jobs_at_once(OmegaConf.create({"launcher": launcher})) == jobs
