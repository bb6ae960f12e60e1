"""What is printed for after a run and after a sweep works when it is pasted: uploads, looks, reports, folders."""

import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from tuneoff.cli.arguments import prepare_sweep_arguments
from tuneoff.cli.summary import format_run_summary
from tuneoff.cli.sweep_folder import name_sweep_folder
from tuneoff.jobs.next_commands import describe_results, list_wandb_commands


def paste(command: str, folder: Path) -> str:
    """What a shell prints of a command, with this environment's programs, in a folder."""
    # Where pip has put the program: beside the interpreter, or beside the packages that it finds.
    programs = f"{Path(sys.executable).parent}:{Path(wandb.__file__).parents[4] / 'bin'}"
    script = f"PATH={programs}:$PATH; {command}"
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_printed_wandb_commands_find_every_offline_run(run, tmp_path):
    folder = tmp_path / "a sweep"
    for method in ("lora", "full"):
        result = run(
            f"method={method}", "tracker=wandb", "max_steps=1", folder=folder / method / "1"
        )
    names = sorted(path.name for path in folder.rglob("offline-run-*"))
    assert len(names) == 2
    upload, results, report = describe_results(folder)
    listed = paste(f"{upload.partition(': ')[2]} --dry-run", tmp_path)
    assert all(name in listed for name in names), listed
    assert results == f"results: {folder}"
    assert report == f"report: python -m tuneoff report '{folder}'"
    # After a single run there is one to look at, too.
    commands = dict(list_wandb_commands(folder / "full" / "1"))
    listed = paste(f"{commands['W&B, upload']} --dry-run", tmp_path)
    assert sum(name in listed for name in names) == 1
    look = commands["W&B, here"].replace("wandb leet ", "wandb leet inspect --summary ")
    assert result["tracker_id"] in paste(look, tmp_path)
    assert commands["W&B, here"] in format_run_summary(result, folder / "full" / "1")
    result["config"]["tracker"] = "none"  # of a run that has replaced it
    assert "W&B" not in format_run_summary(result, folder / "full" / "1")


def test_without_offline_runs_there_is_nothing_to_upload(tmp_path):
    assert list(list_wandb_commands(tmp_path)) == []
    assert [line.partition(":")[0] for line in describe_results(tmp_path)] == ["results", "report"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["method=lora,full", "seed=0,1"], "method-seed"),
        (["method=lora,full", "seed=0,1,2", "tracker=none"], "method-seed"),
        (["seed=range(3)", "max_steps=100", "method=dora"], "seed_max_steps-100_method-dora"),
        (["lora_target=[q_proj,v_proj]"], "lora_target-q_proj-v_proj_"),
        (["hydra/launcher=joblib"], "sweep"),
        (["lr=1e-3,1e-4", "data.path=" + "a/" * 80], "lr_data.path-a-a-"),
    ],
)
def test_a_sweep_of_the_command_line_has_a_folder_of_its_own_name(words, name):
    folder = name_sweep_folder(["-m", *words])
    exact = not name.endswith(("_", "-"))
    assert folder == f"outputs/{name}" if exact else folder.startswith(f"outputs/{name}")
    assert len(folder) < 100
    assert f"hydra.sweep.dir={folder}" in prepare_sweep_arguments(["-m", *words])


def test_a_folder_that_is_named_and_a_file_of_its_own_name_stay():
    named = ["-m", "seed=0,1", "hydra.sweep.dir=here"]
    assert prepare_sweep_arguments(named)[: len(named)] == named
    assert sum("sweep.dir" in word for word in prepare_sweep_arguments(named)) == 1
    assert not any(
        "sweep.dir" in word for word in prepare_sweep_arguments(["-cd", "sweeps", "-cn", "tune"])
    )
