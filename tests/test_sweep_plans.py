"""The plan of a sweep: which jobs a command line has, each with its method's own options."""

import pytest
from helpers import METHODS, ROOT
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf
from sweeping import SWEEPS, plan

from tuneoff.cli.error_lines import explain_error
from tuneoff.config import ConfigError


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
