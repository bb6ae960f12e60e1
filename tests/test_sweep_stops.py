"""Sweeps that are stopped, killed or limited: what is left, and how the same command goes on."""

import os
import re
import signal
import subprocess
from collections import Counter

import psutil
import pytest
from helpers import finish, left_of_session, wait_for
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from sweeping import counted, reached, results, results_list

from tuneoff import record
from tuneoff.distributed.stop import StopSignal, interrupt_on_stop_signals
from tuneoff.jobs.work import TrainWork
from tuneoff.record import read_json
from tuneoff.sweeps.plan import Point


def job_of(launcher: subprocess.Popen) -> psutil.Process:
    """The training process of a sweep: the forkserver's child."""
    found = [
        child
        for child in psutil.Process(launcher.pid).children(recursive=True)
        if child.ppid() != launcher.pid
    ]
    return found[-1]


@pytest.mark.slow
def test_a_memory_limit_and_a_killed_job(launch_sweep, sweep, tmp_path):
    folder = tmp_path / "sweep"
    process = launch_sweep("-m", "method=full", "max_steps=60,4")
    wait_for(reached(folder, 3), process)
    job_of(process).kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and counted(out) == {"failed": 1, "finished": 1, "skipped": 0}
    assert "killed: Killed: the process ended by SIGKILL" in out
    code, out, _err = sweep(
        "-m",
        "method=full",
        "max_steps=4",
        "seed=1,2",
        "batch_size=4,64",
        "max_length=512",
        "data.path=tuneoff:docstrings",
        "data.limit=400",
        "job_memory_gib=0.8",
    )
    statuses = Counter(
        (result["config"]["batch_size"], result["status"])
        for result in results_list(folder)
        if result["seed"] > 0
    )
    assert statuses == {(4, "finished"): 2, (64, "out_of_memory"): 2}, out
    assert code == 1


@pytest.mark.slow
def test_sigkill_of_the_sweep_and_its_resume(launch_sweep, sweep, tmp_path):
    words = ["-m", "method=lora", "seed=0,1", "max_steps=40", "save_every=2"]
    process = launch_sweep(*words)
    wait_for(reached(tmp_path / "sweep", 7), process)
    process.kill()
    process.wait()
    assert left_of_session(process.pid, seconds=2) == []
    folder = next((tmp_path / "sweep" / "lora").iterdir())
    assert record.read_status(folder) == "interrupted"
    code, out, err = sweep(*words)
    assert code == 0 and counted(out)["finished"] == 2, out + err
    assert read_json(folder / "result.json")["resumed_at_step"] >= 6


@pytest.mark.slow
def test_ctrl_c_once_and_the_same_command_goes_on(launch_sweep, sweep, tmp_path):
    words = ["-m", "method=lora", "seed=0,1", "max_steps=60"]
    process = launch_sweep(*words)
    wait_for(reached(tmp_path / "sweep", 5), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.splitlines()[-1] == "interrupted"
    assert counted(out) == {
        "failed": 0,
        "interrupted": 1,
        "not started": 1,
        "finished": 0,
        "skipped": 0,
    }, out
    folder = next((tmp_path / "sweep" / "lora").iterdir())
    assert record.read_status(folder) == "interrupted"
    assert left_of_session(process.pid, seconds=1) == []
    code, out, err = sweep(*words)
    assert code == 0 and counted(out) == {"failed": 0, "finished": 2, "skipped": 0}
    assert read_json(folder / "result.json")["resumed_at_step"] >= 5


@pytest.mark.slow
def test_two_launchers_share_a_sweep(launch_sweep, tmp_path):
    words = ["-m", "method=lora", "seed=0,1,2,3"]
    both = [launch_sweep(*words), launch_sweep(*words)]
    ended = [process.communicate(timeout=100) for process in both]
    ran = Counter(re.findall(r"\[(\d)/4\] finished:", ended[0][1] + ended[1][1]))
    assert ran == {"1": 1, "2": 1, "3": 1, "4": 1}, ended
    assert [process.returncode for process in both] == [0, 0]
    assert len(results(tmp_path / "sweep")) == 4


class SignalledLauncher:
    """A launcher that is stopped between two jobs."""

    def launch(self, batch, initial_job_idx):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_between_two_jobs_prints_the_table(monkeypatch, tmp_path, capsys):
    Plugins.instance()  # looks for plugins, and executes Hydra's own again: first, or there are two of their classes
    from tuneoff.sweeps.sweeper import GridSweeper

    sweeper = GridSweeper()
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    sweeper.launcher = SignalledLauncher()
    points = [Point([f"seed={seed}"], tmp_path / str(seed), False, TrainWork) for seed in (0, 1)]
    monkeypatch.setattr(sweeper, "points", lambda arguments: points)
    with pytest.raises(StopSignal), interrupt_on_stop_signals():
        sweeper.sweep([])
    assert counted(capsys.readouterr().out)["not started"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["hydra/sweeper=basic", "seed=0,1,2,3"],
        [
            "hydra/sweeper=optuna",
            "hydra.sweeper.n_trials=4",
            "hydra.sweeper.n_jobs=1",
            "seed=choice(0,1,2,3)",
        ],
    ],
)
def test_other_sweepers_print_the_table_when_they_are_stopped(launch_sweep, tmp_path, words):
    if "optuna" in words[0]:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    process = launch_sweep("-m", "method=full", "max_steps=2", *words)
    wait_for(lambda: results_list(tmp_path / "sweep"), process)
    process.terminate()
    done = finish(process)
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == "interrupted", done.stderr
    counts = counted(done.stdout)
    assert counts["finished"] >= 1 and counts["finished"] + counts.get("interrupted", 0) < 4
