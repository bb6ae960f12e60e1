"""FSDP2 and DeepSpeed, run for real on CPUs: the losses of one process, whatever splits the model.

`pytest -m slow` runs a few methods, `pytest -m engines --matrix tests/test_engines.py` all, and prints what was measured.
"""

import json
import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import FOUND, ROOT, finish, python_path, trajectory
from safetensors.torch import load_file
from test_distributed import ALONE, PatchedWork, perform, uneven  # noqa: F401 (a fixture)

from tuneoff.config import ConfigError
from tuneoff.jobs import processes, supervisor
from tuneoff.record import read_json
from tuneoff.training import trainer
from tuneoff.training.model_setup import check_trained_types

sys.path.insert(0, str(ROOT / "tests" / "engines_on_cpu"))
import engines_on_cpu

HAS_DEEPSPEED = find_spec("deepspeed") is not None
# Imported once for all, by the forkserver, as it imports the other libraries.
if HAS_DEEPSPEED:
    processes.PRELOAD += ["engines_on_cpu", "deepspeed"]
ENGINES = ("fsdp2", "zero2", "zero3")
REFUSED = {
    "fsdp2": ALONE | {"galore"},
    "zero2": ALONE | {"galore"},
    "zero3": ALONE - {"badam"} | {"galore"},
}
TRIED_METHODS = ("full", "freeze", "lora", "dora", "pissa", "rslora", "loraplus", "badam")
# One of each kind: the others are `engines`.
QUICK_PAIRS = {("fsdp2", "full"), ("zero2", "lora"), ("zero3", "dora"), ("zero3", "badam")}
OPTIONS = {"badam": ["badam_switch_interval=2"]}


def needs_package(engine: str):
    """Skips a test where the package of its engine is not installed."""
    missing = engine.startswith("zero") and not HAS_DEEPSPEED
    return pytest.mark.skipif(missing, reason="deepspeed is not installed")


def pairs() -> list:
    """Each engine with each method that it takes, under the marker of its test."""
    found = []
    for engine in ENGINES:
        for method in TRIED_METHODS:
            if method in REFUSED[engine]:
                continue
            marker = "slow" if (engine, method) in QUICK_PAIRS else "engines"
            marks = [getattr(pytest.mark, marker), needs_package(engine)]
            found.append(pytest.param(engine, method, marks=marks, id=f"{engine}-{method}"))
    return found


def launcher_environment(engine: str) -> dict[str, str]:
    """What `accelerate launch` sets in a rank's environment where it is given a ready file."""
    from accelerate.commands import launch

    environment: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            launch,
            "multi_gpu_launcher",
            lambda arguments: environment.update(launch.prepare_multi_gpu_env(arguments)),
        )
        patch.setattr(
            launch,
            "deepspeed_launcher",
            lambda arguments: environment.update(launch.prepare_deepspeed_cmd_env(arguments)[1]),
        )
        path = ROOT / "conf" / "accelerate" / f"{engine}.yaml"
        words = ["--config_file", str(path), "train.py", "method=full"]
        launch.launch_command(launch.launch_command_parser().parse_args(words))
    ours = ("ACCELERATE_", "FSDP_")
    return {key: value for key, value in environment.items() if key.startswith(ours)}


@pytest.fixture
def engine_environment(monkeypatch):
    """`engine_environment("zero3")`: from now on this process is one that `accelerate launch` has started."""

    def enter(engine):
        for key, value in launcher_environment(engine).items():
            monkeypatch.setenv(key, value)

    return enter


def train_on_cpus(killed_after, experiment, method, folder, start):
    """Train, as if every process were killed after so many steps; without a number, to the end."""
    engines_on_cpu.patch_now()
    one_step = trainer.Trainer.take_step

    def until(self, step):
        if step == killed_after:
            os._exit(9)
        one_step(self, step)
        types = {str(parameter.dtype) for parameter in self.parts.model.parameters()}
        (folder.parent / "types.json").write_text(json.dumps(sorted(types)))

    trainer.Trainer.take_step = until
    return perform(experiment, method, folder, start)


@pytest.fixture
def train_split(settings, tmp_path):
    """`train_split("method=full", …)` trains in two processes under the engine of the environment: (result, folder)."""

    def start(*overrides, killed_after=None, folder="split", processes=2):
        experiment, method, config = settings(*overrides, f"num_processes={processes}")
        told = {"config": config, "command": list(overrides)}
        told.update(method=experiment.method, seed=experiment.seed)
        folder = tmp_path / folder
        function = partial(train_on_cpus, killed_after)
        work = PatchedWork(experiment, method, folder, told, function)
        supervisor.run_supervised(work, supervisor.Limits(), tmp_path / "run.log")
        return read_json(folder / "result.json"), folder

    return start


def difference_in_losses(one: dict, other: dict) -> float:
    """The largest between the losses of two runs, step by step and at their evaluations."""
    differences = []
    for line, other_line in zip(one["curve"], other["curve"], strict=True):
        for key in ("loss", "validation_loss"):
            if key in line:
                differences.append(abs(line[key] - other_line[key]))
    return max(differences)


def assert_same_weights(folder: Path, expected: Path) -> None:
    """All files of weights hold the same tensors, in the same types, to float error."""
    names = sorted(path.name for path in expected.glob("*.safetensors"))
    assert names
    assert names == sorted(path.name for path in folder.glob("*.safetensors"))
    for name in names:
        ours = load_file(folder / name)
        theirs = load_file(expected / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert ours[key].dtype == tensor.dtype
            assert (ours[key] - tensor).abs().max() <= 1e-3 * tensor.abs().max(), key


@pytest.mark.parametrize(("engine", "method"), pairs())
def test_an_engine_gives_the_losses_of_one_process(
    run,
    train_split,
    engine_environment,
    uneven,  # noqa: F811
    tmp_path,
    measured,
    engine,
    method,
):
    """With clipping, accumulation and decay; saved as one process saves it, and gone on with after a kill."""
    options = [
        f"method={method}",
        f"data.path={uneven}",
        "data.limit=null",
        "max_steps=6",
        "max_grad_norm=1",
        "weight_decay=0.1",
        "eval_every=3",
        "save_model=true",
        *OPTIONS.get(method, []),
    ]
    one = run(*options, "batch_size=4")
    engine_environment(engine)
    options += ["batch_size=1", "gradient_accumulation_steps=2", "save_every=3"]
    result, whole = train_split(*options)
    assert result["status"] == "finished", result["error"]
    difference = difference_in_losses(one, result)
    measured(method, engine, difference)
    assert difference < 1e-5
    assert result["provenance"]["sharding"] == engine
    for key in ("base_weights_hash", "batch_order_hash", "data", "precision"):
        assert result["provenance"][key] == one["provenance"][key]
    for key in ("parameters", "facts"):
        assert result[key] == one[key]
    if method != "badam":  # whose groups in one process are not those of the blocks
        assert result["optimizer"] == one["optimizer"]
    assert_same_weights(whole / "model", tmp_path / "run" / "model")
    train_split(*options, killed_after=4, folder="stopped")
    result, stopped = train_split(*options, "resume=auto", folder="stopped")
    assert result["status"] == "finished", result["error"]
    assert result["resumed_at_step"] == 3
    assert trajectory(stopped) == trajectory(whole)


@pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=needs_package(engine)) for engine in ENGINES]
)
def test_what_a_method_cannot_do_there_is_refused(settings, engine_environment, measured, engine):
    engine_environment(engine)
    refused = set()
    for method in FOUND:
        try:
            settings(f"method={method}", "num_processes=2")
        except ConfigError as error:
            assert error.key in ("num_processes", "method", "lora_init", "use_lorafa")
            measured(method, engine, error.allowed)
            refused.add(method)
    assert refused == set(FOUND) - set(TRIED_METHODS) | REFUSED[engine]


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=needs_package(engine)) for engine in ENGINES]
)
@pytest.mark.parametrize(
    ("precision", "dtype"), [("pure_bf16=true", "bfloat16"), ("mixed_precision=bf16", "float32")]
)
def test_weights_train_in_the_type_that_is_recorded(
    run, train_split, engine_environment, tmp_path, engine, precision, dtype
):
    options = ["method=full", precision, "max_steps=4", "save_model=true", "lr=1e-3"]
    one = run(*options, "batch_size=4")
    engine_environment(engine)
    result, folder = train_split(*options, "batch_size=2")
    assert result["status"] == "finished", result["error"]
    assert result["provenance"]["precision"] == one["provenance"]["precision"]
    assert json.loads((tmp_path / "types.json").read_text()) == [f"torch.{dtype}"]
    (weights,) = (folder / "model").glob("*.safetensors")
    assert {str(tensor.dtype) for tensor in load_file(weights).values()} == {f"torch.{dtype}"}
    assert difference_in_losses(one, result) < 0.05  # rounding to 8 bits


# Each engine with one of them, the others are `engines`.
QUICK_ADAPTERS = {("fsdp2", "dora"), ("zero2", "lora"), ("zero3", "lora")}


def adapter_pairs() -> list:
    """Each engine with each kind of adapter, under the marker of its test."""
    cases = []
    for engine in ENGINES:
        for method in ("lora", "dora", "pissa"):
            marker = "slow" if (engine, method) in QUICK_ADAPTERS else "engines"
            marks = [getattr(pytest.mark, marker), needs_package(engine)]
            cases.append(pytest.param(engine, method, marks=marks, id=f"{engine}-{method}"))
    return cases


def test_whole_modules_beside_float32_adapters_are_refused_where_they_are_split(new_run):
    words = ["method=lora", "pure_bf16=true", "additional_target=[norm]", "max_steps=1"]
    training = new_run(*words)
    experiment = training.parts.experiment
    allowed = "pure_bf16=true: trains weights of bfloat16 and float32, which none cannot split"
    with pytest.raises(ConfigError, match=allowed):
        check_trained_types(training.parts.model, experiment)
    check_trained_types(training.parts.model.get_base_model().model.layers, experiment)


def read_types(folder: Path) -> set[str]:
    """The types of the weights that a run has saved."""
    types = set()
    for path in folder.glob("*.safetensors"):
        types |= {str(tensor.dtype) for tensor in load_file(path).values()}
    return types


@pytest.mark.parametrize(("engine", "method"), adapter_pairs())
def test_adapters_on_bfloat16_weights_train_in_the_type_of_one_process(
    run, train_split, engine_environment, tmp_path, engine, method
):
    """float32 adapters on bfloat16 weights, as PEFT has them; the losses are those of one process, but for rounding."""
    options = [f"method={method}", "pure_bf16=true", "max_steps=5", "save_model=true", "lr=1e-3"]
    options += ["max_grad_norm=1", "weight_decay=0.1"]
    one = run(*options, "batch_size=4")
    engine_environment(engine)
    result, folder = train_split(*options, "batch_size=2")
    assert result["status"] == "finished", result["error"]
    types = json.loads((tmp_path / "types.json").read_text())
    assert types == ["torch.bfloat16", "torch.float32"]
    assert result["provenance"]["precision"] == one["provenance"]["precision"]
    for key in ("parameters", "optimizer", "facts"):
        assert result[key] == one[key]
    assert read_types(folder / "model") == read_types(tmp_path / "run" / "model")
    # A sum in bfloat16 has 8 bits; it is another where rows are split otherwise.
    assert difference_in_losses(one, result) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["ddp", *(pytest.param(engine, marks=needs_package(engine)) for engine in ENGINES)]
)
def test_a_ready_file_trains_by_accelerate_launch(launch, tmp_path, engine):
    path = ROOT / "conf" / "accelerate" / f"{engine}.yaml"
    process = launch(
        "method=lora",
        "save_model=true",
        "hydra.run.dir=here",
        python=["-m", "accelerate.commands.launch", "--config_file", str(path)],
        PYTHONPATH=python_path(ROOT / "tests" / "engines_on_cpu"),
    )
    done = finish(process)
    assert done.returncode == 0, done.stderr
    result = read_json(tmp_path / "here" / "result.json")
    assert result["status"] == "finished"
    assert result["provenance"]["sharding"] == engine
    assert result["provenance"]["num_processes"] == 2
    assert (tmp_path / "here" / "model" / "adapter_model.safetensors").exists()
    assert done.stdout.count("validation loss") == 1


@pytest.mark.slow
def test_a_rank_of_a_split_run_has_its_part_alone(train_split, engine_environment):
    """By resident memory, on the shape of SmolLM2-135M with random weights, of 0.5 GiB.

    The second never loads the whole model; and both train with half of its weights, gradients and states.
    """
    options = [
        "method=full",
        "model=smollm2_135m",
        "model.path=null",
        "model.pretrained=false",
        "model.tokenizer=tuneoff:tiny",
        "max_steps=2",
        "max_length=32",
        "batch_size=1",
    ]
    one, _ = train_split(*options, processes=1, folder="one")
    assert one["status"] == "finished", one["error"]
    engine_environment("fsdp2")
    two, _ = train_split(*options)
    assert two["status"] == "finished", two["error"]
    alone = one["memory"]["peak_gib"]
    first, second = two["memory"]["peak_gib_by_rank"]
    print(f"one process {alone}, first rank {first}, second {second}")
    weights = 4 * one["parameters"]["total"] / 2**30
    # A rank that held it whole while it loads would need as much as one process.
    assert second["load"] < alone["load"] - 0.3 * weights
    assert first["evaluate"] < alone["evaluate"] - 0.2 * weights
    # Of four times the weights half is saved; whole layers come and go.
    assert max(first["train"], second["train"]) < alone["train"] - weights
