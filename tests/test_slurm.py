"""A sweep by a real SLURM: its controller and one node, both on this machine (Debian: slurmctld, slurmd, munge)."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import start_training, wait_for
from sweeping import counted, results_list

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
CONFIG = """
ClusterName=tests
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} CPUs={cores} State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Three jobs of seconds, and one that is longer than its time limit. SLURM may signal up to a minute before it is due.
FOUR = """
defaults: [config, _self_]
hydra:
  mode: MULTIRUN
  sweeper:
    grids:
      - {method: lora, seed: "0,1,2", max_steps: 4}
      - {method: full, seed: 0, max_seconds: 100}
  launcher:
    timeout_min: 2
    signal_delay_s: 30
    gpus_per_node: null
    cpus_per_task: 1
    mem_gb: null
"""


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def daemon(*words: object, log: Path):
    """A program that runs in the foreground until the end of the block."""
    with log.open("w") as file:
        process = subprocess.Popen([str(word) for word in words], stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster of this machine alone; `sbatch` and its like find it."""
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            cores=len(os.sched_getaffinity(0)),
            controller_port=free_port(),
            node_port=free_port(),
        )
    )
    monkeypatch.setenv("SLURM_CONF", str(config))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    files = {"key": key, "socket": folder / "munge.socket", "pid": folder / "munge.pid"}
    options = [f"--{name}-file={files[name]}" for name in ("key", "pid")]
    options += [f"--seed-file={folder / 'munge.seed'}", f"--log-file={folder / 'munge.log'}"]
    options += [f"--socket={files['socket']}", "--force", "--foreground"]
    with (
        daemon("munged", *options, log=folder / "munged.out"),
        daemon("slurmctld", "-D", log=folder / "slurmctld.out"),
        daemon("slurmd", "-D", log=folder / "slurmd.out"),
    ):
        wait_for(node_is_idle, seconds=60)
        yield


def node_is_idle() -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)
    return done.stdout.strip() == "idle"


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(os.getuid() != 0, reason="slurmd needs root")
def test_a_job_that_its_time_limit_stops_goes_on_in_the_same_sweep(slurm, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "four.yaml").write_text(FOUR)
    words = ["-cd", tmp_path, "-cn", "four", "hydra/launcher=submitit_slurm"]
    words += ["hydra.sweep.dir=sweep", "tracker=none", "data.limit=48", "batch_size=4"]
    process = start_training(words, tmp_path)
    out, err = process.communicate(timeout=400)
    statuses = sorted(result["status"] for result in results_list(tmp_path / "sweep"))
    assert statuses == ["finished", "finished", "finished", "interrupted"], out + err
    assert process.returncode == 1
    process = start_training([*words, "hydra.launcher.timeout_min=10"], tmp_path)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert counted(out) == {"failed": 0, "finished": 1, "skipped": 3}, out + err
    results = results_list(tmp_path / "sweep")
    assert {result["status"] for result in results} == {"finished"}
    (resumed,) = [result for result in results if "resumed_at_step" in result]
    assert resumed["resumed_at_step"] > 0
    assert resumed["config"]["max_seconds"] == 100
