"""What a job costs beside its work, and jobs side by side under the launchers and the sweeper of other packages."""

import itertools
import statistics
from pathlib import Path

import pytest
from helpers import left_of_session, wait_for
from omegaconf import OmegaConf
from sweeping import counted, reached, results_list

from tuneoff.cli.known_errors import explain_known_error
from tuneoff.record import read_json


def overheads(folder: Path) -> list[float]:
    """Seconds a job took beside its own load, train and evaluate, after the first."""
    ends = sorted(
        (path.stat().st_mtime, read_json(path)["throughput"]["wall_seconds"])
        for path in folder.rglob("result.json")
    )
    return [end - before[0] - wall for before, (end, wall) in itertools.pairwise(ends)]


@pytest.mark.slow
@pytest.mark.parametrize(("tracker", "most"), [("none", 0.5), ("wandb", 1.5)])
@pytest.mark.serial
def test_a_job_costs_its_work_and_little_more(sweep, tmp_path, tracker, most):
    methods = ("full", "lora", "galore", "badam")
    code, out, err = sweep(
        "-m",
        f"method={','.join(methods)}",
        "seed=0,1",
        "max_steps=2",
        "data.limit=24",
        f"tracker={tracker}",
    )
    assert code == 0 and counted(out)["finished"] == 2 * len(methods), out + err
    assert statistics.median(overheads(tmp_path / "sweep")) <= most, overheads(tmp_path / "sweep")


SIX = """
defaults: [config, _self_]
hydra:
  mode: MULTIRUN
  sweeper:
    params: {method: freeze, seed: "0,1"}
    grids:
      - freeze_trainable_layers: 2
        +hydra.job.env_set.OMP_NUM_THREADS: 2
      - freeze_trainable_layers: 1,99
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_runs_a_real_sweep(launch_sweep, tmp_path, launcher):
    """Six jobs on two cores: two cannot work and stop nothing, two have a variable of their own that no other sees."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    (tmp_path / "six.yaml").write_text(SIX)
    words = ["-cd", tmp_path, "-cn", "six", f"hydra/launcher={launcher}", "tracker=tensorboard"]
    words += {
        "joblib": ["hydra.launcher.n_jobs=2"],
        "ray": ["hydra.launcher.ray.init.num_cpus=2"],
    }.get(launcher, [])
    process = launch_sweep(*words)
    # Ray takes a minute, and on a busy machine seven.
    out, err = process.communicate(timeout=900)
    assert process.returncode == 1 and counted(out) == {"failed": 2, "finished": 4, "skipped": 0}, (
        out + err
    )
    finished = [each for each in results_list(tmp_path / "sweep") if each["status"] == "finished"]
    threads = {
        (each["config"]["freeze_trainable_layers"], each["provenance"]["threads"])
        for each in finished
    }
    assert threads == {(1, 1), (2, 2)}
    assert {tuple(each["planned_seeds"]) for each in finished} == {(0, 1)}
    process = launch_sweep(*words)
    out, err = process.communicate(timeout=900)
    assert counted(out) == {"failed": 2, "finished": 0, "skipped": 4}, out + err


@pytest.mark.slow
@pytest.mark.parametrize(("jobs_per_device", "overlap"), [(1, False), (2, True)])
def test_jobs_beyond_the_devices_wait_or_share(launch_sweep, tmp_path, jobs_per_device, overlap):
    """Two workers, told of one device: their jobs come one after the other, or side by side on purpose."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    process = launch_sweep(
        "-m",
        "method=full,lora",
        "max_steps=30",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        f"jobs_per_device={jobs_per_device}",
        CUDA_VISIBLE_DEVICES="0",
    )
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    spans = []
    for path in (tmp_path / "sweep").rglob("result.json"):
        end = path.stat().st_mtime
        spans.append((end - read_json(path)["throughput"]["wall_seconds"], end))
    first, second = sorted(spans)
    assert (second[0] < first[1]) is overlap, spans
    assert ("this job waits" in err) is not overlap


@pytest.mark.slow
def test_sigkill_under_joblib_leaves_nothing(launch_sweep, tmp_path):
    process = launch_sweep(
        "-m",
        "method=lora",
        "seed=0,1",
        "max_steps=400",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )
    wait_for(reached(tmp_path / "sweep", 5), process)
    process.kill()
    process.wait()
    assert left_of_session(process.pid, seconds=2) == []


@pytest.mark.slow
def test_optuna_searches_a_rate(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    code, out, err = sweep(
        "-m",
        "method=full",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=minimize",
        "hydra.sweeper.sampler.seed=1",
        "lr=tag(log, interval(1e-4, 1e-1))",
    )
    assert code == 0, out + err
    found = results_list(tmp_path / "sweep")
    best = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert len({result["config"]["lr"] for result in found}) == 4
    assert best.best_value == min(result["loss"]["final"] for result in found)
    assert counted(out)["finished"] == 4


def test_a_plugin_that_is_missing_is_one_line():
    error = RuntimeError(
        "Unknown plugin class : 'hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher'"
    )
    assert (
        explain_known_error(error, [])
        == "hydra: needs the extra joblib: pip install 'tuneoff[joblib]'"
    )
