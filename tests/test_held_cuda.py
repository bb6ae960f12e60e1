"""Nothing that the forkserver imports starts CUDA, by a torch that only seems to be built with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import python_path

FAKE_CUDA = Path(__file__).parent / "fake_cuda.py"
EAGER = """import torch

torch.cuda.get_device_capability()
"""


# They share a process that imports everything twice.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What the imports asked for, those of the forkserver and one of a package that asks at once."""
    folder = tmp_path_factory.mktemp("eager")
    (folder / "eager_package.py").write_text(EAGER)
    environment = {**os.environ, "PYTHONPATH": python_path(folder), "CUDA_VISIBLE_DEVICES": "0"}
    words = [sys.executable, FAKE_CUDA, "eager_package"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_that_is_preloaded_asks_for_cuda(seen):
    """Whatever is installed: bitsandbytes, which PEFT imports, would read the device's version."""
    assert set(seen["asked"]) == {"eager_package"}, seen["asked"]
    assert seen["available"], "the libraries were to believe that there is a device"
    assert not seen["loaded"]


def test_a_package_that_asks_at_once_is_left_to_the_jobs(seen):
    """Its import fails in the forkserver, which passes over that, before the driver is asked."""
    assert seen["refused"] == [["eager_package", "CudaHeld"]]
    assert [question for question, *_ in seen["asked"]["eager_package"]] == ["wanted CUDA"]


def test_a_job_has_cuda_and_all_of_bitsandbytes(seen):
    job = seen["job"]
    assert job["owns"] and job["available"] and job["bitsandbytes"]
    assert "cuInit" in job["asked"], "bitsandbytes reads the device's version in the job"
    assert not job["loaded by an adapter"], "which would cost every job a second"
