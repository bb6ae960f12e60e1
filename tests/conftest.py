"""Shared by all tests: no network, a small random Llama, and a way to train a variant in this process."""

import gc
import math
import os
import signal
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path

# One thread: the models are too small for two to help, and idle OpenMP threads that spin cost the other tests dearly.
os.environ.update(
    HF_HUB_OFFLINE="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)

import pytest
import torch
from hydra import compose, initialize_config_dir

import tuneoff.cli.run_folder
import tuneoff.methods  # noqa: F401 (methods register their options)
from tuneoff import record
from tuneoff.config import bind, resolve_config

# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tokenised sets and what `datasets` keeps: neither read from nor left in the user's own caches.
CACHES = tempfile.TemporaryDirectory(prefix="tuneoff-tests-")
os.environ.update(
    TUNEOFF_CACHE=f"{CACHES.name}/tuneoff", HF_DATASETS_CACHE=f"{CACHES.name}/datasets"
)
ROOT = Path(__file__).parent.parent
TINY = ROOT / "src" / "tuneoff" / "assets" / "tiny"
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
QUICK = [
    "tracker=none",
    "progress=false",
    "data.limit=48",
    "max_length=96",
    "batch_size=4",
    "max_steps=4",
]


class Killed(BaseException):
    """Stands for the moment of a SIGKILL in this process: nothing after it runs."""


def kill_inside(training, due) -> None:
    """Let the process of a run die in the first step that is `due()`, inside its accumulation window.

    That is behind the first micro-batch's backward pass, in which layer-wise GaLore has changed the weights already.
    """
    backward = training.parts.engine.backward

    def until(loss):
        backward(loss)
        if due():
            raise Killed

    training.parts.engine.backward = until


def trajectory(folder: Path) -> list[dict]:
    """Everything a run has measured that does not depend on the clock."""
    return [
        {key: value for key, value in line.items() if "seconds" not in key}
        for line in record.read_metrics(folder)
    ]


def apart(one, other) -> float:
    """Largest difference of two numbers, tensors, or nests of them; infinite where they are not alike."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple) and len(one) == len(other):
        return max(map(apart, one, other), default=0.0)
    if (
        torch.is_tensor(one)
        and torch.is_tensor(other)
        and (one.shape, one.dtype) == (other.shape, other.dtype)
    ):
        return (
            0.0 if torch.equal(one, other) else float((one.double() - other.double()).abs().max())
        )
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other)
    return (
        0.0
        if not torch.is_tensor(one) and not torch.is_tensor(other) and one == other
        else math.inf
    )


def save_debug_model(folder: Path, tied: bool = True) -> Path:
    """A three-layer Llama with random weights and tiny's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def imports_are_not_garbage():
    """BAdam collects garbage at each switch, which takes a second where all that the tests import is looked through."""
    gc.collect()  # what the module before has left would stay for good
    gc.freeze()


@pytest.fixture(scope="session")
def debug_model(tmp_path_factory) -> Path:
    """Folder of the small tied Llama."""
    return save_debug_model(tmp_path_factory.mktemp("debug"))


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory) -> Path:
    """Folder of the small untied Llama."""
    return save_debug_model(tmp_path_factory.mktemp("untied"), tied=False)


@cache
def composed(*overrides: str):
    """The config as `train.py` composes it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


# ---------------------------------------------------------------- the matrix: what was measured, method by method
FIGURES = pytest.StashKey[dict[tuple[str, str], float]]()
COLUMNS = (
    "equal to reference",
    "same command twice",
    "resume after SIGKILL",
    "two processes",
    "export reload",
    "export reload in bf16",
    "merged in bf16",
)


def pytest_addoption(parser):
    parser.addoption(
        "--matrix",
        action="store_true",
        help="print the largest difference that was measured, by method",
    )


@pytest.fixture(scope="session")
def measured(pytestconfig):
    """`measured("lora", "export reload", 1e-7)` keeps the largest difference of each cell, for `--matrix`."""
    figures = pytestconfig.stash.setdefault(FIGURES, {})

    def keep(method: str, column: str, difference: float) -> None:
        assert column in COLUMNS
        figures[method, column] = max(difference, figures.get((method, column), 0.0))

    return keep


def pytest_terminal_summary(terminalreporter, config):
    """The matrix as Markdown, where `--matrix` asks for it."""
    if not config.getoption("matrix"):
        return
    figures = config.stash.get(FIGURES, {})
    rows = [["method", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for method in METHODS:
        rows.append(
            [
                method,
                *(
                    f"{figures[method, column]:.2g}" if (method, column) in figures else ""
                    for column in COLUMNS
                ),
            ]
        )
    for row in rows:
        terminalreporter.write_line(f"| {' | '.join(row)} |")


@pytest.fixture
def compose_config(debug_model):
    """`compose_config("method=full", …)`: the config as `train.py` composes it, on the small Llama."""

    def make(*overrides: str):
        return deepcopy(
            composed(*QUICK, f"model.path={debug_model}", "model.name=debug", *overrides)
        )

    return make


@pytest.fixture
def settings(compose_config):
    """`settings("method=full", …)`: (experiment, method, config), composed as `train.py` does, on the small Llama."""

    def make(*overrides: str):
        cfg = compose_config(*overrides)
        return *bind(cfg), resolve_config(cfg)

    return make


@pytest.fixture
def run(settings, tmp_path):
    """`run("method=full", …)` trains in this process and returns the result; `folder=` names the place."""
    from tuneoff.training.run import train

    def start(*overrides: str, folder: Path | None = None):
        experiment, method, config = settings(*overrides)
        return train(
            experiment,
            method,
            folder or tmp_path / "run",
            {"config": config, "command": list(overrides)},
        )

    return start
