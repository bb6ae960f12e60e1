"""Sweeps through the real command line: nothing stops one, nothing is done twice, and each method has its own grid."""

import itertools
import os
import re
import signal
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from helpers import METHODS, ROOT, complete, finish, python_path, session, wait_for
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from tuneoff import record
from tuneoff.cli.arguments import prepare_sweep_arguments
from tuneoff.cli.error_lines import explain_error
from tuneoff.cli.known_errors import explain_known_error
from tuneoff.config import ConfigError, check_config, resolve_config
from tuneoff.distributed.stop import StopSignal, interrupt_on_stop_signals
from tuneoff.jobs.work import TrainWork
from tuneoff.record import read_json
from tuneoff.sweeps import tuning as tuned
from tuneoff.sweeps.plan import Point
from tuneoff.sweeps.progress import JobRow, describe_unfinished
from tuneoff.sweeps.sweeper import GridSweeper

SWEEPS = ROOT / "sweeps"


# ---------------------------------------------------------------- running one
@pytest.fixture
def launch_sweep(launch, tmp_path):
    """`launch_sweep("-m", "method=lora,full", …)` starts one in the folder `sweep`."""

    def start(*words, **environment):
        return launch(*complete(words, [f"hydra.sweep.dir={tmp_path / 'sweep'}"]), **environment)

    return start


@pytest.fixture
def sweep(launch_sweep):
    """`sweep(…)` runs one to its end: (exit code, stdout, stderr)."""

    def run(*words, **environment):
        done = finish(launch_sweep(*words, **environment), seconds=170)
        return done.returncode, done.stdout, done.stderr

    return run


def results(folder: Path) -> dict[str, dict]:
    """The results below a folder by `method` and the seed."""
    found = [read_json(path) for path in folder.rglob("result.json")]
    return {f"{result['method']} {result['seed']}": result for result in found}


def counted(out: str) -> dict[str, int]:
    """The last line of the table, as numbers."""
    return {
        name: int(count)
        for name, count in re.findall(r"(\w[\w ]*) (\d+)", out.strip().splitlines()[-1])
    }


def job_of(launcher: subprocess.Popen) -> psutil.Process:
    """The training process of a sweep: the forkserver's child."""
    found = [
        child
        for child in psutil.Process(launcher.pid).children(recursive=True)
        if child.ppid() != launcher.pid
    ]
    return found[-1]


def reached(folder: Path, step: int):
    """Whether any job below `folder` has logged a step."""
    return lambda: any(
        f'"step": {step},' in path.read_text() for path in folder.rglob("metrics.jsonl")
    )


# ---------------------------------------------------------------- nothing stops it, nothing twice
def test_a_failed_job_stops_nothing_and_is_tried_again_alone(sweep, tmp_path):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import atexit, os, sys\natexit.register(lambda: open(f'{os.environ[\"IMPORTED\"]}/{os.getppid()}', 'w')"
        ".write(' '.join(sys.modules)))\n"
    )
    grid = ["-m", "method=full,freeze", "seed=0,1"]
    # Only the loaded model shows that it has no 99 layers.
    words = [
        *grid,
        "hydra.sweeper.grids=[{method: full}, {method: freeze, freeze_trainable_layers: '1,99'}]",
    ]
    code, out, err = sweep(*words, PYTHONPATH=python_path(hook), IMPORTED=str(hook))
    assert code == 1 and counted(out) == {"failed": 2, "finished": 4, "skipped": 0}, out + err
    assert err.splitlines()[-1] == "error: 2 of 6 jobs failed; the same command tries them again"
    assert len(re.findall(r"^\[\d/6\] (?:finished|failed): method=.*  [\d.]+ s", err, re.M)) == 6
    assert "min" in err or re.search(r"\(about \d+ s left\)", err)
    failed = [line for line in out.splitlines() if line.startswith("failed")]
    assert all(
        "ConfigError: freeze_trainable_layers=99: this model has" in line for line in failed[:2]
    )
    imported = (hook / str(os.getpid())).read_text().split()
    assert "tuneoff.jobs.supervisor" in imported and not {"torch", "transformers", "peft"} & {
        *imported
    }

    found = results(tmp_path / "sweep")
    assert (
        len({read_json(path)["identity"] for path in (tmp_path / "sweep").rglob("run.json")}) == 6
    )
    assert found["full 1"]["planned_seeds"] == [0, 1] and found["full 1"]["sweep"] == "sweep"
    folder = next((tmp_path / "sweep" / "full").iterdir())
    log = (folder / "run.log").read_text()
    assert "an example, its trained part" in log and "an example" not in err

    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "full").rglob("result.json")
    }
    code, out, err = sweep(*words)
    assert code == 1 and counted(out) == {"failed": 2, "finished": 0, "skipped": 4}, out
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    # Another value is another job; rerun=true does the old one again.
    code, out, err = sweep("-m", "method=full", "seed=0", "max_steps=4,5", "rerun=true")
    assert code == 0 and counted(out) == {"failed": 0, "finished": 2, "skipped": 0}
    again = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "full").rglob("result.json")
    }
    assert len(again) == 3 and len(again.items() & stamps.items()) == 1


def test_a_sweep_fails_as_long_as_a_job_of_it_does(tmp_path):
    for name in ("finished", "diverged", "killed"):
        record.conclude_dead_run(
            tmp_path / name,
            {"identity": name},
            name,
            {"type": "E", "message": "m", "traceback": ""},
            1.0,
        )
    rows = [
        JobRow(path.name, path, before=path.name != "killed") for path in sorted(tmp_path.iterdir())
    ]
    assert describe_unfinished(rows) == (
        "1 of 3 jobs failed; the same command tries them again; "
        "1 of 3 ran out of memory or diverged; rerun=true tries them again"
    )
    assert describe_unfinished(rows[1:2]) is None


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


def results_list(folder: Path) -> list[dict]:
    return [read_json(path) for path in folder.rglob("result.json")]


def test_predictions_leave_results_alone(sweep, tmp_path):
    assert sweep("-m", "method=full")[0] == 0
    result = next((tmp_path / "sweep").rglob("result.json"))
    stamp = result.stat().st_mtime_ns
    code, out, err = sweep("-m", "method=full", "task=predict", "gib=1")
    assert code == 0 and re.search(
        r"finished  .*fits 1 GiB, largest batch +\d+ +needs +\d\.\d\d GiB", out
    ), out + err
    assert result.stat().st_mtime_ns == stamp and (result.parent / "prediction.json").exists()


def test_jobs_that_would_not_fit_are_not_started(sweep, tmp_path):
    code, out, _err = sweep(
        "-m", "method=full", "batch_size=4,256", "max_steps=1", "skip_if_over_gib=0.8"
    )
    assert code == 0 and counted(out) == {
        "failed": 0,
        "finished": 1,
        "skipped": 0,
        "predicted out of memory": 1,
    }, out
    results = {
        result["config"]["batch_size"]: result for result in results_list(tmp_path / "sweep")
    }
    assert results[256]["prediction"]["needed_gib"] > 0.8 >= results[4]["prediction"]["needed_gib"]
    assert results[256]["throughput"]["tokens_seen"] == 0 < results[4]["throughput"]["tokens_seen"]


def test_fail_fast_stops_at_the_first_failure(sweep, tmp_path):
    code, out, err = sweep(
        "-m", "method=freeze", "freeze_trainable_layers=1,99,2", "fail_fast=true"
    )
    assert code == 1 and counted(out) == {
        "failed": 1,
        "not started": 1,
        "finished": 1,
        "skipped": 0,
    }, out + err
    assert err.splitlines()[-1].startswith("error: fail_fast=true: failed:")


def test_sigkill_of_the_sweep_and_its_resume(launch_sweep, sweep, tmp_path):
    words = ["-m", "method=lora", "seed=0,1", "max_steps=40", "save_every=2"]
    process = launch_sweep(*words)
    wait_for(reached(tmp_path / "sweep", 7), process)
    process.kill()
    process.wait()
    time.sleep(2)
    assert [left.cmdline() for left in session(process.pid)] == []
    folder = next((tmp_path / "sweep" / "lora").iterdir())
    assert record.read_status(folder) == "interrupted"
    code, out, err = sweep(*words)
    assert code == 0 and counted(out)["finished"] == 2, out + err
    assert read_json(folder / "result.json")["resumed_at_step"] >= 6


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
    time.sleep(1)
    assert [left.cmdline() for left in session(process.pid)] == []
    code, out, err = sweep(*words)
    assert code == 0 and counted(out) == {"failed": 0, "finished": 2, "skipped": 0}
    assert read_json(folder / "result.json")["resumed_at_step"] >= 5


def test_two_launchers_share_a_sweep(launch_sweep, tmp_path):
    words = ["-m", "method=lora", "seed=0,1,2,3"]
    both = [launch_sweep(*words), launch_sweep(*words)]
    ended = [process.communicate(timeout=100) for process in both]
    ran = Counter(re.findall(r"\[(\d)/4\] finished:", ended[0][1] + ended[1][1]))
    assert ran == {"1": 1, "2": 1, "3": 1, "4": 1}, ended
    assert [process.returncode for process in both] == [0, 0]
    assert len(results(tmp_path / "sweep")) == 4


def test_no_secret_is_written(sweep, tmp_path):
    """Neither by Hydra, nor in a record, nor by a tracker, nor in what the user sees."""
    secret = "s3cr3tOfMine"
    code, out, err = sweep(
        "-m",
        "method=full",
        "max_steps=1",
        "tracker=wandb",
        f"tags=[https://me:{secret}@host]",
        f"+hydra.job.env_set.MY_VARIABLE={secret}",
        "seed=0,1",
    )
    assert code == 0, out + err
    assert secret not in out + err
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in paths}
    assert {"multirun.yaml", "hydra.yaml", "run.json"} <= names
    assert any(path.suffix == ".wandb" for path in paths)  # which holds the command line, too
    assert [path for path in paths if secret.encode() in path.read_bytes()] == []


class SignalledLauncher:
    """A launcher that is stopped between two jobs."""

    def launch(self, batch, initial_job_idx):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_between_two_jobs_prints_the_table(monkeypatch, tmp_path, capsys):
    sweeper = GridSweeper()
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    sweeper.launcher = SignalledLauncher()
    points = [Point([f"seed={seed}"], tmp_path / str(seed), False, TrainWork) for seed in (0, 1)]
    monkeypatch.setattr(sweeper, "points", lambda arguments: points)
    with pytest.raises(StopSignal), interrupt_on_stop_signals():
        sweeper.sweep([])
    assert counted(capsys.readouterr().out)["not started"] == 2


# ---------------------------------------------------------------- isolation
def test_equal_jobs_are_equal_whatever_ran_before(sweep, tmp_path):
    """Bit-identical losses, and the same memory alone as after a job ten times its size."""
    common = ["-m", "method=full", "max_steps=4", "data.path=tuneoff:docstrings", "data.limit=200"]
    assert sweep(*common, "batch_size=4", f"hydra.sweep.dir={tmp_path / 'alone'}")[0] == 0
    code, out, err = sweep(*common, "batch_size=40,4", f"hydra.sweep.dir={tmp_path / 'after'}")
    assert code == 0, out + err
    alone = read_json(next((tmp_path / "alone").rglob("result.json")))
    after, big = sorted(
        results_list(tmp_path / "after"), key=lambda result: result["config"]["batch_size"]
    )
    assert after["identity"] == alone["identity"]

    def steps(result):
        return [
            {key: value for key, value in line.items() if "seconds" not in key}
            for line in result["curve"]
        ]

    assert steps(after) == steps(alone)
    peaks = [result["memory"]["peak_gib"] for result in (alone, after, big)]
    beyond = [peak["train"] - peak["load"] for peak in peaks]
    assert beyond[2] > 3 * beyond[0]
    for phase, peak in peaks[0].items():
        assert abs(peaks[1][phase] - peak) < 0.02 * peak, phase


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
    code, out, err = sweep(
        "-m", "method=glob(*)", "seed=0,1", "max_steps=2", "data.limit=24", f"tracker={tracker}"
    )
    assert code == 0 and counted(out)["finished"] == 2 * len(METHODS), out + err
    assert statistics.median(overheads(tmp_path / "sweep")) <= most, overheads(tmp_path / "sweep")


# ---------------------------------------------------------------- the plan of a sweep
def plan(*words: str) -> list[list[str]]:
    """The overrides of every job of a command line (without `python train.py`), as the sweeper would launch them."""
    written = prepare_sweep_arguments(list(words))
    name = written[written.index("-cn") + 1] if "-cn" in written else "config"
    path = create_config_search_path(str(ROOT / "conf"))
    path.prepend("command-line", f"file://{SWEEPS}", anchor="schema")
    hydra = Hydra.create_main_hydra2("train", path)
    try:
        config = hydra.compose_config(
            name,
            [word for word in written if "=" in word],
            RunMode.MULTIRUN,
            with_log_configuration=False,
        )
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(
            config=config, hydra_context=context, task_function=print
        )
        return [point.overrides for point in sweeper.points(list(config.hydra.overrides.task))]
    finally:
        GlobalHydra.instance().clear()


def test_a_union_of_grids_times_common_parameters(tmp_path):
    file = SWEEPS / "galore_rank.yaml"
    assert file.exists()
    grids = "hydra.sweeper.grids=[{method: lora, lora_rank: '8,64'}, {method: galore, galore_rank: '64,128'}]"
    jobs = plan("-m", grids, "seed=0,1")
    assert [sorted(job) for job in jobs] == [
        sorted([f"method={method}", f"{method}_rank={rank}", f"seed={seed}"])
        for method, ranks in (("lora", (8, 64)), ("galore", (64, 128)))
        for rank in ranks
        for seed in (0, 1)
    ]
    assert len(plan("-m", grids, "seed=0,1", "lora_rank=4")) == 6  # replaced where the grid has it
    shared = plan(
        "-m",
        "hydra.sweeper.grids=[{method: lora, batch_size: '2,4'}, {method: full}]",
        "batch_size=16",
    )
    assert shared == [["method=lora", "batch_size=16"], ["method=full", "batch_size=16"]]
    assert {job[0] for job in plan("-m", grids, "method=galore")} == {"method=galore"}
    with pytest.raises(
        ConfigError, match="method=dora: must be one of this sweep's grids: lora, galore"
    ):
        plan("-m", grids, "method=dora,lora")
    with pytest.raises(ConfigError, match="lora_rank=0: must be at least 1"):
        plan("-m", "hydra.sweeper.grids=[{method: full}, {method: lora, lora_rank: '8,0'}]")


def test_an_option_of_the_swept_methods_alone():
    jobs = plan("-m", "method=galore,galore_layerwise", "galore_rank=128", "seed=0,1")
    assert len(jobs) == 4 and all("galore_rank=128" in job for job in jobs)
    jobs = plan("-cd", str(SWEEPS), "-cn", "galore_rank", "galore_rank=16")
    assert len(jobs) == 6 and all("galore_rank=16" in job for job in jobs)
    jobs = plan(
        "-cd", str(SWEEPS), "-cn", "methods", "method=galore", "galore_target=[q_proj,v_proj]"
    )
    assert jobs == [["method=galore", "seed=0", "galore_target=[q_proj,v_proj]"]]
    jobs = plan("-cd", str(SWEEPS), "-cn", "methods", "galore_rank=64,128", "seed=0,1")
    assert (
        len(jobs) == 2 * len(METHODS) + 4
    )  # twice for those of the file's methods that have the option
    assert all(
        ("method=galore" in " ".join(job)) == ("galore_rank" in " ".join(job)) for job in jobs
    )
    with pytest.raises(ConfigCompositionException):
        plan("-cd", str(SWEEPS), "-cn", "methods", "galore_rnk=64")
    with pytest.raises(ConfigCompositionException) as refused:
        plan("-m", "method=galore,lora", "galore_rank=128")
    line = explain_error(refused.value, ["galore_rank=128"])
    assert line == "galore_rank=128: no such option for method=lora, but for galore"


def test_equal_points_are_one_job():
    assert len(plan("-m", "method=lora", "lr=1e-3,0.001,2e-3", "seed=0")) == 2


def test_values_of_the_command_line_replace_swept_ones():
    jobs = plan("-cd", str(SWEEPS), "-cn", "methods", "seed=0,1,2", "method=lora,full")
    assert len(jobs) == 6 and {job[1] for job in jobs} == {"seed=0", "seed=1", "seed=2"}


COUNTS = {
    "methods": len(METHODS),
    "tune": 5 * len(METHODS),
    "compare": 5 * len(METHODS),
    "lora_rank": 24,
    "galore_rank": 18,
    "badam_switch": 12,
    "learning_rate": 6 * len(METHODS),
    "freeze_depth": 6,
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_ready_sweep_has_its_jobs(name):
    jobs = plan("-cd", str(SWEEPS), "-cn", name, *(["tuned=null"] if name == "compare" else []))
    assert len(jobs) == COUNTS[name]


def test_every_config_is_composed_by_a_test():
    """Every YAML under conf and sweeps: those of `sweeps` that are not counted above are composed here."""
    others = {path.stem for path in SWEEPS.glob("*.yaml")} - {*COUNTS, "wandb"}
    for name in others:
        assert plan("-cd", str(SWEEPS), "-cn", name), name
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        for path in {*(ROOT / "conf").glob("*/*.yaml")} - {
            *(ROOT / "conf" / "accelerate").iterdir()
        }:  # not Hydra's
            group = path.parent.relative_to(ROOT / "conf")
            assert hydra.compose_config(
                "config", [f"{group}={path.stem}"], RunMode.RUN, with_log_configuration=False
            )


def test_the_wandb_sweep_draws_what_can_be_composed():
    file = OmegaConf.to_container(OmegaConf.load(SWEEPS / "wandb.yaml"))
    assert file["program"] == "train.py" and file["command"][-1] == "${args_no_hyphens}"
    drawn = {
        key: values.get("values", [values.get("value", values.get("min"))])
        for key, values in file["parameters"].items()
    }
    words = [f"{key}={','.join(map(str, values))}" for key, values in drawn.items()]
    assert len(plan("-m", *words, *(word for word in file["command"] if "=" in word))) == len(
        drawn["method"]
    )


# ---------------------------------------------------------------- tuned settings
def trial(
    folder: Path, method: str, lr: float, loss: float | None, seed: int = 0, **config
) -> None:
    """A finished (or, without a loss, diverged) trial's record."""
    place = folder / method / f"{lr}_{seed}_{len(config)}{hash(str(config)) % 999}"
    place.mkdir(parents=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = GlobalHydra.instance().hydra.compose_config(
            "config",
            [
                f"method={method}",
                f"lr={lr}",
                f"seed={seed}",
                *(f"{key}={value}" for key, value in config.items()),
            ],
            RunMode.RUN,
            with_log_configuration=False,
        )
    record.write_json(
        place / "result.json",
        {
            "method": method,
            "seed": seed,
            "config": resolve_config(cfg),
            "status": "finished" if loss else "diverged",
            "loss": {"final": loss},
            "throughput": {"tokens_seen": 100, "wall_seconds": 2.0},
            "command": ["python", "train.py", "-cd", "sweeps", "-cn", "tune", "seed=0"],
        },
    )


@pytest.fixture
def tuning(tmp_path):
    """Two methods' trials: full is best inside its grid, lora on its upper edge."""
    for lr, full, lora in (
        (1e-4, 2.0, 3.0),
        (1e-3, 1.0, 2.5),
        (1e-2, 1.5, 2.0),
        (1e-1, None, None),
    ):
        trial(tmp_path, "full", lr, full)
        if lr < 0.1:
            trial(tmp_path, "lora", lr, lora)
    tuned.read_results.cache_clear()
    return tmp_path


def test_tuned_values_become_plain_overrides(tuning):
    jobs = plan("-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full,lora")
    assert len(jobs) == 10
    assert {(job[1], job[-1]) for job in jobs} == {
        ("method=full", "lr=0.001"),
        ("method=lora", "lr=0.01"),
    }
    given = plan(
        "-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full", "lr=0.5", "seed=7"
    )
    assert [word for word in given[0] if word.startswith("lr=")] == ["lr=0.5"]
    with pytest.raises(
        ConfigError, match="holds no finished run of method=dora on model=tiny and data=docstrings"
    ):
        plan("-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=dora")


def test_edges_costs_and_overridden_values_are_told(tuning):
    found = {each.method: each for each in tuned.read_tunings(str(tuning))}
    assert found["full"].describe_extension() is None and found["full"].best == {"lr": 0.001}
    assert found["full"].cost == {
        "jobs": 4,
        "tokens": 400,
        "seconds": 8.0,
    }  # the diverged trial too
    assert found["full"].space == {"lr": [1e-4, 1e-3, 1e-2, 1e-1]}
    assert found["lora"].describe_extension().splitlines()[1].strip() == (
        "python train.py -cd sweeps -cn tune seed=0 method=lora lr=0.1,1"
    )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        task = check_config(
            GlobalHydra.instance().hydra.compose_config(
                "config", ["method=lora", "lr=0.5", "seed=0", f"tuned={tuning}"], RunMode.RUN, False
            )
        )
    values, notes = tuned.find_tuned_overrides(task, {"lr"})
    assert values == [] and notes[0] == "lora: lr is given, so the tuned lr=0.01 is not used"
    assert (
        notes[1] == "seed=0 was tuned on; a comparison needs fresh seeds"
        and "on the edge" in notes[2]
    )
    facts = tuned.describe_tuning(task, ["method=lora", "lr=0.5"])
    assert (
        facts["edge"] is True
        and facts["overridden"] == {"lr": "0.5"}
        and facts["method_cost"]["jobs"] == 3
    )
    assert tuned.describe_tuning(task, ["lr=0.01"])["overridden"] == {}


def test_the_best_is_the_mean_over_seeds_and_needs_them_all(tmp_path):
    for lr, losses in ((1e-3, (1.0, 3.0)), (1e-2, (1.8, 1.9)), (1e-1, (1.0, None))):
        for seed, loss in enumerate(losses):
            trial(tmp_path, "full", lr, loss, seed)
    tuned.read_results.cache_clear()
    [found] = tuned.read_tunings(str(tmp_path))
    assert found.best == {"lr": 1e-2}


def test_other_keys_that_were_searched_are_tuned_too(tmp_path):
    for rank, loss in ((8, 2.0), (16, 1.0), (32, 1.5)):
        trial(tmp_path, "lora", 1e-2, loss, lora_rank=rank)
    tuned.read_results.cache_clear()
    [found] = tuned.read_tunings(str(tmp_path))
    assert found.best == {"lora_rank": 16, "lr": 1e-2} and found.describe_extension() is None


@pytest.mark.slow
def test_tune_then_compare(sweep, tmp_path):
    """The protocol end to end, with two methods: rates from the records, one data order and one base a seed."""
    common = ["method=full,lora", "max_steps=3"]
    folder = f"hydra.sweep.dir={tmp_path / 'tune'}"
    code, out, err = sweep(
        "-cd", SWEEPS, "-cn", "tune", *common, folder, "hydra.sweeper.around.lr='0.1,1'"
    )
    assert code == 0 and "is on the edge of its grid; search on with" in err, out + err
    code, out, err = sweep(
        "-cd", SWEEPS, "-cn", "compare", *common, "seed=1,2", f"tuned={tmp_path / 'tune'}"
    )
    assert code == 0 and counted(out)["finished"] == 4, out + err
    best = {each.method: each.best["lr"] for each in tuned.read_tunings(str(tmp_path / "tune"))}
    found = results(tmp_path / "sweep")
    for name, result in found.items():
        method = name.split()[0]
        assert result["config"]["lr"] == best[method] and result["loss"]["test"] is not None
        assert (
            result["tuning"]["best"]["lr"] == best[method]
            and result["tuning"]["method_cost"]["jobs"] == 2
        )
        assert result["planned_seeds"] == [1, 2]
    for path in (tmp_path / "sweep").rglob("overrides.yaml"):
        assert any(word == f"lr={best[path.parents[2].name]:g}" for word in OmegaConf.load(path)), (
            path
        )
    for seed in (1, 2):
        for key in ("batch_order_hash", "base_weights_hash"):
            assert (
                len({found[f"{method} {seed}"]["provenance"][key] for method in ("full", "lora")})
                == 1
            )
    assert (
        found["full 1"]["provenance"]["batch_order_hash"]
        != found["full 2"]["provenance"]["batch_order_hash"]
    )


# ---------------------------------------------------------------- jobs side by side
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
    out, err = process.communicate(timeout=280)
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
    out, err = process.communicate(timeout=280)
    assert counted(out) == {"failed": 2, "finished": 0, "skipped": 4}, out + err


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
    time.sleep(2)
    assert [left.cmdline() for left in session(process.pid)] == []


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
