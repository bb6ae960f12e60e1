"""The plan of a sweep: which jobs a command line has, each with its method's own options."""

import re
import time
from pathlib import Path

import psutil
import pytest
from helpers import FOUND, METHODS, ROOT, in_this_part, quick_of
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
)
from hydra.types import RunMode
from omegaconf import OmegaConf
from sweeping import SWEEPS, plan, plan_points

from tuneoff.cli.arguments import prepare_sweep_arguments
from tuneoff.cli.error_lines import explain_error
from tuneoff.config import ConfigError, resolve_config
from tuneoff.sweeps.composition import Composer, select_task_overrides


@pytest.mark.slow
def test_a_union_of_grids_times_common_parameters(tmp_path):
    file = SWEEPS / "galore_rank.yaml"
    assert file.exists()
    grids = "hydra.sweeper.grids=[{method: lora, lora_rank: '8,64'}, {method: galore, galore_rank: '64,128'}]"
    jobs = plan("-m", grids, "seed=0,1")
    assert [sorted(job) for job in jobs] == [
        sorted([f"method={method}", f"{method}_rank={rank}", f"seed={seed}"])
        for seed in (0, 1)
        for method, ranks in (("lora", (8, 64)), ("galore", (64, 128)))
        for rank in ranks
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
    with pytest.raises(ConfigCompositionException) as refused:
        plan("-m", "method=galore,lora", "galore_rank=128")
    line = explain_error(refused.value, ["galore_rank=128"])
    assert line == "galore_rank=128: no such option for method=lora, but for galore"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["method=vera,randlora"], "peft.r=64"),
        (["model=tiny,tiny"], "model.pretrained=true"),
        (["data=stdlib,docstrings"], "data.limit=4"),
        (["data=[stdlib,docstrings],[docstrings,stdlib]"], "data.sets.stdlib.limit=4"),
        (["forgetting.data=stdlib,docstrings"], "forgetting.data.limit=4"),
    ],
)
def test_what_only_the_swept_choices_have_is_given_to_each(words, value):
    """Hydra composes once without them, by the default's keys."""
    jobs = plan("-m", *words, value)
    assert len(jobs) == (1 if "tiny" in words[0] else 2)
    assert all(value in [word.lower() for word in job] for job in jobs)


def test_a_nested_option_of_some_of_a_files_methods():
    methods = "hydra.sweeper.params.method='lora,vera'"
    jobs = plan("-cd", str(SWEEPS), "-cn", "methods", methods, "peft.r=8")
    assert sorted(map(sorted, jobs)) == [
        ["method=lora", "seed=0"],
        ["method=vera", "peft.r=8", "seed=0"],
    ]


@pytest.mark.parametrize(
    ("name", "word", "line"),
    [
        ("lora_rank", "method=full", "lora_rank=1: no such option for method=full, but for lora"),
        (
            "galore_rank",
            "galore_rnk=3",
            "galore_rnk=3: no such option for method=lora; did you mean galore_rank or lora_rank or galore_svd?",
        ),
        ("tune", "foo=3", "foo=3: no such option for method=lora"),
    ],
)
def test_a_fault_of_a_files_sweep_names_its_own_key(name, word, line):
    words = ["-cd", str(SWEEPS), "-cn", name, word]
    # Else Hydra takes it for a run, and refuses the first swept word.
    assert "--multirun" in prepare_sweep_arguments(words)
    with pytest.raises((ConfigCompositionException, ConfigError)) as refused:
        plan(*words)
    assert explain_error(refused.value, words) == line


@pytest.mark.slow
def test_an_option_of_some_of_a_files_methods():
    jobs = plan("-cd", str(SWEEPS), "-cn", "methods", "galore_rank=64,128", "seed=0,1")
    # Twice for those of the file's methods that have the option.
    assert len(jobs) == 2 * len(FOUND) + 4
    for job in jobs:
        assert ("method=galore" in " ".join(job)) == ("galore_rank" in " ".join(job))
    with pytest.raises(ConfigCompositionException):
        plan("-cd", str(SWEEPS), "-cn", "methods", "galore_rnk=64")


@pytest.mark.parametrize(
    ("words", "subdir", "shared"),
    [
        (["seed=0,1"], "${hydra.job.num}", "outputs/seed/0"),
        (["method=lora,full", "seed=0"], "${seed}", "outputs/method_seed-0/0"),
    ],
)
def test_jobs_that_would_share_a_folder_are_refused(words, subdir, shared):
    """The second was left out as if it were the first."""
    with pytest.raises(ConfigError) as refused:
        plan("-m", *words, f"hydra.sweep.subdir={subdir}")
    line = f"hydra.sweep.subdir={subdir}: must tell all jobs apart, and two would be in {shared};"
    assert str(refused.value).startswith(line)
    # The same run, named twice, is one job.
    assert len(plan("-m", "seed=0,0", "hydra.sweep.subdir=${seed}")) == 1


def test_the_seeds_of_a_plan_are_those_that_its_jobs_have(monkeypatch):
    """Written as text or as an interpolation, the launch failed on them."""
    monkeypatch.setenv("JOB_SEED", "7")
    points = plan_points("-m", "seed='1','${oc.env:JOB_SEED}'")
    from tuneoff.sweeps.sweeper import add_sweep_facts  # Hydra's plugins must be looked for first

    assert [point.seed for point in points] == [1, 7]
    planned = [f"hydra.sweeper.planned_seeds={seeds}" for seeds in ([1, 7], [1, 7])]
    jobs = add_sweep_facts(points, ["seed"])
    assert [word for job in jobs for word in job if "planned_seeds" in word] == planned


@pytest.fixture
def composer():
    """A sweep's composer, whose calls of Hydra are counted in `composer.calls`."""
    path = create_config_search_path(str(ROOT / "conf"))
    hydra = Hydra.create_main_hydra2("train", path)
    try:
        words = ["hydra/sweeper=grids"]
        config = hydra.compose_config("config", words, RunMode.MULTIRUN, False)
        composer = Composer(hydra.config_loader, config)
        composer.calls = []
        compose = composer.compose
        composer.compose = lambda words: composer.calls.append(words) or compose(words)
        yield composer
    finally:
        GlobalHydra.instance().clear()


def is_tested(method: str) -> bool:
    """Whether a method is of README's table, or of the part of the others that this run tests."""
    return method in METHODS or in_this_part(method)


POINTS = [
    *([f"method={method}", "seed=3", "lr=1e-2"] for method in FOUND if is_tested(method)),
    ["method=lora", "lora_target=[q_proj,v_proj]", "model=llama_60m", "model.pretrained=false"],
    ["method=lora", "lora_alpha=null", "tags='a,b'", "dtype=bfloat16"],
    ["forgetting.data=stdlib", "forgetting.data.limit=4", "data.splits.test=null", "data.limit=7"],
    ["model=llama_60m", "model.config.hidden_size=8", "+hydra.job.env_set.A=1", "task=predict"],
    ["hydra.sweep.subdir=${lr}/${seed}", "lr=0.5", "hydra.sweep.dir=here/${seed}"],
    ["hydra.sweep.subdir=${hydra.job.override_dirname}", "lr=0.5", "seed=1"],
    ["data=docstrings+stdlib", "data.sets.stdlib.limit=3", "data.default_max_length=64"],
    ["seed=7", "max_steps=${seed}", "wandb_project=p-${seed}-${method}"],
]


@pytest.mark.parametrize("overrides", POINTS, ids=" ".join)
def test_a_point_is_what_hydra_composes(composer, overrides):
    whole = composer.compose(overrides)
    assert resolve_config(composer.compose_task(overrides)) == resolve_config(whole)
    point = composer.compose_point(overrides)
    assert point.config == resolve_config(whole)
    folder = Path(whole.hydra.sweep.dir) / whole.hydra.sweep.subdir
    assert composer.name_folder(point, composer.identify(point)) == folder


def test_what_points_share_is_composed_and_read_once(composer, monkeypatch):
    points = [
        [f"method={method}", f"seed={seed}", f"lr={seed + 1}e-5"]
        for method in ("lora", "full")
        for seed in range(40)
    ]
    to_object = OmegaConf.to_object
    reads = []
    monkeypatch.setattr(OmegaConf, "to_object", lambda cfg: reads.append(cfg) or to_object(cfg))
    composed = [composer.compose_point(overrides) for overrides in points]
    folders = {composer.name_folder(point, composer.identify(point)) for point in composed}
    assert len(folders) == 80 and len(composer.calls) == 2
    assert sum(cfg._get_parent() is None for cfg in reads) == 2


def test_a_point_leaves_nothing_to_the_next(composer):
    plain = composer.compose_point(["method=lora"]).config
    first = ["data.limit=3", "data.splits.test=null", "lora_target=[q_proj]", "max_length=64"]
    linked = ["data.sets=${forgetting.data.sets}", "forgetting.data=stdlib"]
    for overrides in (first, linked, ["data.columns.text=a", "data.columns={prompt: a}"]):
        changed = composer.compose_point(["method=lora", *overrides])
        changed.settings.data.limit = 8  # of the point alone
        assert changed.config != plain
    for refused in ("lora_rank=a", "lora_rank=???", "lora_rnk=4"):
        with pytest.raises((ConfigError, ConfigCompositionException)):
            composer.compose_point(["method=lora", "data.limit=3", refused])
    assert composer.compose_point(["method=lora"]).config == plain


@pytest.mark.slow
@pytest.mark.serial
def test_two_thousand_points_in_fifteen_seconds_and_little_memory():
    plan("-m", "method=lora,full", "seed=range(0,2)")
    seconds = time.process_time()
    before = psutil.Process().memory_info().rss
    points = plan("-m", "method=lora,full,galore,badam", "seed=range(0,500)")
    assert len(points) == 2000
    assert time.process_time() - seconds < 15
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_equal_points_are_one_job():
    assert len(plan("-m", "method=lora", "lr=1e-3,0.001,2e-3", "seed=0")) == 2


def test_values_of_the_command_line_replace_swept_ones():
    jobs = plan("-cd", str(SWEEPS), "-cn", "methods", "seed=0,1,2", "method=lora,full")
    assert len(jobs) == 6 and {job[1] for job in jobs} == {"seed=0", "seed=1", "seed=2"}


def test_every_method_runs_with_one_seed_before_the_next_seed():
    """A sweep that is cut short then has every method equally often."""
    jobs = plan("-m", "method=lora,full,badam", "seed=3,1")
    assert [next(word for word in job if "seed=" in word) for job in jobs] == (
        3 * ["seed=3"] + 3 * ["seed=1"]
    )
    assert len({job[0] for job in jobs[:3]}) == 3


# That every method composes, `methods` tells; the other sweeps of all methods are planned for three.
OF_THREE = "method=full,lora,badam"
COUNTS = {
    "methods": (len(FOUND),),
    "tune": (5 * 3, OF_THREE),
    "compare": (5 * 3, OF_THREE, "tuned=null"),
    "lora_rank": (24,),
    "galore_rank": (18,),
    "badam_switch": (12,),
    "learning_rate": (6 * 3, OF_THREE),
    "freeze_depth": (6,),
    "smollm2_gsm8k_tune": (44,),
    "smollm2_gsm8k_compare": (55, "tuned=null"),
}


@pytest.mark.parametrize("name", quick_of(sorted(COUNTS), *sorted(COUNTS.keys() - {"methods"})))
def test_a_ready_sweep_has_its_jobs(name):
    count, *words = COUNTS[name]
    assert len(plan("-cd", str(SWEEPS), "-cn", name, *words)) == count


def test_the_sweeps_of_all_methods_have_the_same_ones():
    named = []
    for name in ("methods", "tune", "compare", "learning_rate"):
        params = OmegaConf.load(SWEEPS / f"{name}.yaml").hydra.sweeper.params
        named.append(params.method)
    assert len(set(named)) == 1


UNCOUNTED = sorted({path.stem for path in SWEEPS.glob("*.yaml")} - {*COUNTS, "wandb"})


@pytest.mark.parametrize("name", quick_of(UNCOUNTED, "galore_svd"))
def test_every_other_sweep_is_composed(name):
    assert plan("-cd", str(SWEEPS), "-cn", name)


# Accelerate's files are not Hydra's; every method is composed for the sweep `methods`, too.
GROUPS = {path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")} - {"accelerate"}


@pytest.mark.parametrize("group", quick_of(sorted(GROUPS), *sorted(GROUPS - {"method"})))
def test_every_config_is_composed(group):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            words = [f"{group}={path.stem}"]
            assert hydra.compose_config("config", words, RunMode.RUN, with_log_configuration=False)


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


def test_hydras_own_part_may_be_added_to():
    """`+hydra.job.env_set.NAME=value` is how a sweep's jobs get a variable; the task's own settings take no `+`."""
    words = [
        "method=lora",
        "+hydra.job.env_set.A=2",
        "hydra/launcher=basic",
        "~hydra.job",
        "+foo=1",
    ]
    assert select_task_overrides(words) == ["method=lora", "+foo=1"]


# An option of the sweeper, as a word or as the content of a YAML, and the line that refuses it.
OPTIONS = {
    "around={lr: abc}": "around.lr=abc: must be numbers, as in '0.1,1,10'",
    "around={lr: null}": "around.lr=null: must be numbers, as in '0.1,1,10'",
    "around={lr: [1,x]}": "around.lr=[1,x]: must be numbers, as in '0.1,1,10'",
    "around={lr: true}": "around.lr=true: must be numbers, as in '0.1,1,10'",
    "around={lr: []}": "around.lr=[]: must be numbers, as in '0.1,1,10'",
    "around={lr: 'nan,1'}": "around.lr=nan,1: must be numbers, as in '0.1,1,10'",
    "around={scheduler: 2}": "around.scheduler=2: multiplies a number, and method=lora has scheduler=cosine",
    "around={model.path: '1,2'}": "around.model.path=1,2: multiplies a number, and method=lora has model.path=…",
    "around={lrr: 2}": "around.lrr=2: no such option for method=lora; did you mean lr?",
    "around={model.foo: 2}": "around.model.foo=2: no such option in model; there are name, path, …",
    "around={galore_rank: 2}": "around.galore_rank=2: no such option for method=lora, but for galore…",
    "around=3": "around=3: must be keys with values, as in 'hydra.sweeper.around={KEY: VALUE}'",
    "needs=validation": "needs=validation: must be a list of any of validation, test",
    "needs=[dev]": "needs=[dev]: must be a list of any of validation, test",
    "needs=3": "needs=3: must be a list of any of validation, test",
    "sobol=4": "sobol=4: must be keys with values, as in 'hydra.sweeper.sobol={KEY: VALUE}'",
    "sobol={points: 4, arond: {lr: [1,3]}}": "sobol.arond=…: no such option in hydra.sweeper.sobol; did you mean around?",
    "sobol={points: 4, around: 3}": "sobol.around=3: must be keys with values, …",
    "sobol={points: 4, around: {lr: 3}}": "sobol.around.lr=3: must be [low, high], low below high, and both above 0",
    "sobol={points: 4, around: {lr: [1,x]}}": "sobol.around.lr=[1,x]: must be [low, high], …",
    "sobol={points: 4, between: {lrr: [1,3]}}": "sobol.between.lrr=1,3: no such option for method=lora; did you mean lr?",
    "sobol={points: 4, around: {scheduler: [1,3]}}": "sobol.around.scheduler=1,3: multiplies a number, …",
    "grids=[seed,3]": "grids=[seed,3]: must be a list of maps, as in …",
    "grids={seed: 0}": "grids={'seed': 0}: must be a list of maps, as in …",
    "params=[seed,3]": "params=[seed,3]: must be keys with values, as in …",
    "max_batch_size=0": "max_batch_size=0: must be an integer, at least 1, or null",
    "jobs=2": "jobs=2: is filled in by the sweep itself, and cannot be given",
    "prams={seed: '0,1'}": "prams={'seed': '0,1'}: no such option in hydra.sweeper; did you mean params?",
}


@pytest.mark.parametrize("word", OPTIONS)
def test_an_option_of_the_sweeper_is_refused_by_its_key(word):
    plus = "+" if word.startswith("prams") else ""
    with pytest.raises((ConfigError, InstantiationException)) as refused:
        plan("-m", "seed=0", f"{plus}hydra.sweeper.{word}")
    line = explain_error(refused.value, [])
    pattern = ".*".join(map(re.escape, f"hydra.sweeper.{OPTIONS[word]}".split("…")))
    assert re.fullmatch(pattern, line), line


def test_factors_are_a_text_a_list_or_one_number():
    jobs = [
        plan("-m", "seed=0", f"hydra.sweeper.around={{lr: {text}}}") for text in ("'1,2'", "[1,2]")
    ]
    assert jobs[0] == jobs[1] and len(jobs[0]) == 2
    assert plan("-m", "seed=0", "hydra.sweeper.around={lr: 2}") == jobs[0][1:]


@pytest.mark.parametrize(
    "word",
    [
        "method=glob(zz*)",
        "seed=glob(*)",
        "seed=range(3,0)",
        "seed=range(0,3,0)",
        "lr=range(0.1,0.3,0.0)",
        "seed=interval(0,3)",
    ],
)
@pytest.mark.parametrize("others", [[], ["hydra.sweeper.grids=[{method: lora}]"]], ids=len)
def test_a_sweep_over_nothing_is_refused_by_its_key(word, others):
    with pytest.raises(ConfigError) as refused:
        plan("-m", word, *others)
    assert str(refused.value).startswith(f"{word}: must list one value or more, ")


# Settings that change no result, each with two values: the jobs would be one run in one folder.
OF_ONE_RUN = [
    "device=h100,a100",
    "gib=10,20 task=predict",
    "skip_if_over_gib=10,20",
    "task=train,predict",
    "tracker=wandb,none",
    "wandb_project=a,b",
    "tags=[a],[b]",
    "progress=true,false",
    "fail_fast=true,false",
    "job_timeout_seconds=10,20",
]


@pytest.mark.parametrize("words", OF_ONE_RUN)
def test_values_that_tell_no_runs_apart_are_refused(words):
    """The first alone was taken, and nothing said."""
    word, *others = words.split()
    with pytest.raises(ConfigError) as refused:
        plan("-m", word, "seed=0", *others)
    line = f"{word}: must be one value for the whole sweep, or tell"
    assert str(refused.value).lower().startswith(line)
    key = word.partition("=")[0]
    subdir = f"hydra.sweep.subdir=${{method}}/${{identity:}}-${{{key}}}"
    assert len(plan("-m", word, "seed=0", subdir, *others)) == 2


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("dry_run=false,true", "dry_run=true"),
        ("tuning_schedule=grid,halving", "tuning_schedule=halving"),
        ("hydra.sweeper.params={dry_run: true}", "dry_run=true"),
        ("hydra.sweeper.grids=[{tuning_schedule: halving}]", "tuning_schedule=halving"),
    ],
)
def test_what_the_sweeper_reads_once_is_no_jobs_own(word, line):
    with pytest.raises(ConfigError) as refused:
        plan("-m", word, "seed=0")
    assert (
        str(refused.value)
        == f"{line}: must be one value for the whole sweep, outside hydra.sweeper"
    )


@pytest.mark.parametrize("words", [("seed=0,1",), ("seed=0", "resume=never,{folder}")])
def test_a_sweep_goes_on_with_no_single_run(words, tmp_path):
    """It goes on with its own; one that was named was passed over in silence."""
    (tmp_path / "result.json").write_text("{}")
    words = [word.format(folder=tmp_path) for word in words]
    if len(words) == 1:
        words.append(f"resume={tmp_path}")
    with pytest.raises(ConfigError, match=r"^resume=/.*: is for a single run"):
        plan("-m", *words)
    assert len(plan("-m", "seed=0,1", "resume=auto")) == 2
