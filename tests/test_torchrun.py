"""Launchers of several processes: torchrun, accelerate's ready files, and a sweep that starts its ranks itself."""

import psutil
import pytest
from helpers import (
    ROOT,
    hanging_launcher,
    left_of_session,
    session,
    wait_for,
)
from test_metrics import LEARN, SECOND, SUMS, sums  # noqa: F401 (a fixture)

from tuneoff.record import read_json, read_metrics

ENGINES = ("ddp", "fsdp2", "zero2", "zero3")


@pytest.mark.parametrize("name", ENGINES)
def test_accelerate_launch_understands_the_ready_files(settings, monkeypatch, name):
    from accelerate.commands import launch

    path, environment = ROOT / "conf" / "accelerate" / f"{name}.yaml", {}
    # Where it would start the processes, which need GPUs.
    monkeypatch.setattr(
        launch,
        "multi_gpu_launcher",
        lambda arguments: environment.update(launch.prepare_multi_gpu_env(arguments)),
    )
    monkeypatch.setattr(
        launch,
        "deepspeed_launcher",
        lambda arguments: environment.update(launch.prepare_deepspeed_cmd_env(arguments)[1]),
    )
    arguments = launch.launch_command_parser().parse_args(
        ["--config_file", str(path), "train.py", "method=full"]
    )
    launch.launch_command(arguments)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    experiment, _, _ = settings("method=full", "num_processes=2")
    assert experiment.sharding == name and arguments.num_processes == 2
    if name == "fsdp2":
        from accelerate.utils import FullyShardedDataParallelPlugin

        assert FullyShardedDataParallelPlugin().fsdp_version == 2
    if name.startswith("zero"):
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == name[-1]


@pytest.mark.slow
def test_sigkill_of_the_launching_process_leaves_nothing(tmp_path):
    with hanging_launcher(tmp_path, ranks=2) as process:
        assert len(session(process.pid)) >= 4  # itself, the forkserver, the ranks
        process.kill()
        process.wait()
        assert left_of_session(process.pid, seconds=2) == []


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.slow
def test_torchrun_makes_one_run_of_two_processes(launch, tmp_path):
    process = launch("method=lora", "tracker=wandb", python=TORCHRUN)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("validation loss") == 1 and err.count("an example, its trained part") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    (folder,) = (tmp_path / "outputs" / "lora").iterdir()
    result = read_json(folder / "result.json")
    assert result["status"] == "finished" and result["provenance"]["num_processes"] == 2
    assert (
        result["config"]["num_processes"] == 2
        and len(list(folder.glob("wandb/offline-run-*"))) == 1
    )
    assert [line["step"] for line in read_metrics(folder)] == [0, 1, 2, 3, 4, 4]


@pytest.mark.slow
def test_sigkill_of_torchrun_leaves_nothing(launch, tmp_path):
    process = launch("method=lora", "max_steps=100000", "hydra.run.dir=here", python=TORCHRUN)
    wait_for(lambda: (tmp_path / "here" / "metrics.jsonl").exists(), process)
    ranks = psutil.Process(process.pid).children()  # each in a session of its own
    assert len(ranks) == 2
    process.kill()
    assert psutil.wait_procs(ranks, timeout=10)[1] == []


@pytest.mark.slow
def test_a_sweep_goes_on_when_a_rank_of_one_job_is_killed(launch, tmp_path):
    process = launch(
        "-m", "method=full,lora", "num_processes=2", "hydra.sweep.dir=sweep", "max_steps=20"
    )
    wait_for(lambda: list(tmp_path.glob("sweep/full/*/metrics.jsonl")), process)
    children = psutil.Process(process.pid).children(
        recursive=True
    )  # the forkserver among them; its own are the ranks
    forked = [child for child in children if child.ppid() != process.pid]
    second = max(forked, key=lambda child: child.pid)  # it is started last
    second.kill()
    _out, err = process.communicate()
    results = {path.parts[-3]: read_json(path) for path in tmp_path.glob("sweep/*/*/result.json")}
    assert results["full"]["status"] == "killed"
    assert results["full"]["error"]["message"] == "rank 1 of 2 ended by SIGKILL and left no result"
    assert (
        results["lora"]["status"] == "finished"
        and results["lora"]["provenance"]["num_processes"] == 2
    )
    assert process.returncode == 1 and "1 of 2 jobs failed" in err


@pytest.mark.slow
def test_a_single_run_starts_its_ranks_itself(launch, tmp_path):
    process = launch("method=lora", "num_processes=2", "hydra.run.dir=here")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert read_json(tmp_path / "here" / "result.json")["provenance"]["num_processes"] == 2
    assert out.count("validation loss") == 1
    assert (tmp_path / "here" / "run.log").read_text().count("an example, its trained part") == 1
