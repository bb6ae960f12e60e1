"""Which devices or cores a job beside others gets, and a job's ranks between them."""

import os

import pytest
from omegaconf import OmegaConf

from tuneoff.jobs.devices import assign_devices


def test_jobs_side_by_side_share_devices_or_cores(monkeypatch, tmp_path):
    monkeypatch.setattr("tuneoff.jobs.devices.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.delenv("OMP_NUM_THREADS")
    with assign_devices(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4" and "OMP_NUM_THREADS" not in os.environ
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        with assign_devices(2):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
            with assign_devices(2):
                assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    with assign_devices(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("tuneoff.jobs.devices.available_cores", lambda: 8)
    with assign_devices(3):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with assign_devices(3):
        assert os.environ["OMP_NUM_THREADS"] == "5"


def test_the_ranks_of_a_job_share_its_part(monkeypatch, tmp_path):
    monkeypatch.setattr("tuneoff.jobs.devices.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    with assign_devices(2, ranks=2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
        with assign_devices(2, ranks=2):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6,7"  # too few are free
    assert OmegaConf.create({"jobs": "${workers:2}"}).jobs == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("tuneoff.jobs.devices.available_cores", lambda: 8)
    with assign_devices(1, ranks=2):
        assert os.environ["OMP_NUM_THREADS"] == "4"
    with assign_devices(2, ranks=2):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert OmegaConf.create({"jobs": "${workers:2}"}).jobs == 4


MIG = "MIG-GPU-8a1b/1/0,MIG-GPU-8a1b/2/0"


def test_a_device_may_have_slashes_in_its_name_and_any_length(monkeypatch, tmp_path):
    monkeypatch.setattr("tuneoff.jobs.devices.gettempdir", lambda: str(tmp_path))
    for names in (MIG, f"{'x' * 300},{'y' * 300}"):
        first, second = names.split(",")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
        with assign_devices(2):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == first
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
            with assign_devices(2):
                assert os.environ["CUDA_VISIBLE_DEVICES"] == second


def test_locks_lie_where_only_this_user_writes(monkeypatch, tmp_path):
    """Another user's folder of our name is left alone, and the locks go to the cache."""
    temporary, cache = tmp_path / "tmp", tmp_path / "cache"
    monkeypatch.setattr("tuneoff.jobs.devices.gettempdir", lambda: str(temporary))
    monkeypatch.setenv("TUNEOFF_CACHE", str(cache))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with assign_devices(2):
        [lock] = list(tmp_path.rglob("*.lock"))
        assert lock.parent.parent == temporary and lock.parent.stat().st_mode & 0o777 == 0o700
    lock.unlink()
    lock.parent.chmod(0o777)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with assign_devices(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        [lock] = list(tmp_path.rglob("*.lock"))
        assert lock.parent.parent == cache


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(28, "full")])
def test_an_error_of_a_lock_fails_no_job(monkeypatch, tmp_path, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("tuneoff.jobs.devices.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for broken in ("pathlib.Path.open", "tuneoff.jobs.devices.flock"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, fail)
            with assign_devices(2):
                assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
