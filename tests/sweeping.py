"""Shared by the tests of sweeps: what one left and said, and the jobs that one would have."""

import re
from pathlib import Path

from helpers import ROOT
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from tuneoff.cli.arguments import prepare_sweep_arguments
from tuneoff.record import read_json

SWEEPS = ROOT / "sweeps"


def results(folder: Path) -> dict[str, dict]:
    """The results below a folder by `method` and the seed."""
    found = [read_json(path) for path in folder.rglob("result.json")]
    return {f"{result['method']} {result['seed']}": result for result in found}


def counted(out: str) -> dict[str, int]:
    """The last line of the table, as numbers."""
    [line] = [line for line in out.splitlines() if re.match(r"failed \d+, ", line)]
    return {name: int(count) for name, count in re.findall(r"(\w[\w ]*) (\d+)", line)}


def reached(folder: Path, step: int):
    """Whether any job below `folder` has logged a step."""
    return lambda: any(
        f'"step": {step},' in path.read_text() for path in folder.rglob("metrics.jsonl")
    )


def results_list(folder: Path) -> list[dict]:
    return [read_json(path) for path in folder.rglob("result.json")]


def plan(*words: str) -> list[list[str]]:
    """The overrides of every job of a command line (without `python train.py`), as the sweeper would launch them."""
    return [point.overrides for point in plan_points(*words)]


def plan_points(*words: str) -> list:
    """Every job of a command line, planned."""
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
        # As Hydra gives them to a sweeper: what they interpolate is each job's own.
        arguments = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        return sweeper.points(arguments)
    finally:
        GlobalHydra.instance().clear()
