"""Which devices or cores a job beside others gets, and a job's ranks between them."""

import os

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
