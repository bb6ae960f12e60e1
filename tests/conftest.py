"""Fixtures of all tests: no network, a small random Llama, ways to train on it, and how tests share the machine."""

import gc
import os
import signal
import tempfile
from copy import deepcopy
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
from helpers import (
    METHODS,
    QUICK,
    complete,
    composed,
    end_session,
    load_trainer,
    save_debug_model,
    start_training,
)

import tuneoff.cli.run_folder  # noqa: F401 (registers a resolver of config.yaml)
from tuneoff.config import bind, resolve_config

# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tokenised sets and what `datasets` keeps: neither read from nor left in the user's own caches.
CACHES = tempfile.TemporaryDirectory(prefix="tuneoff-tests-")
os.environ.update(
    TUNEOFF_CACHE=f"{CACHES.name}/tuneoff", HF_DATASETS_CACHE=f"{CACHES.name}/datasets"
)


@pytest.fixture(scope="module", autouse=True)
def imports_are_not_garbage():
    """BAdam collects garbage at each switch, which takes a second where all that the tests import is looked through."""
    gc.collect()  # what the module before has left would stay for good
    gc.freeze()


# ---------------------------------------------------------------- a small model, and training on it here
@pytest.fixture(scope="session")
def debug_model(tmp_path_factory) -> Path:
    """Folder of the small tied Llama."""
    return save_debug_model(tmp_path_factory.mktemp("debug"))


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory) -> Path:
    """Folder of the small untied Llama."""
    return save_debug_model(tmp_path_factory.mktemp("untied"), tied=False)


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
def new_trainer(settings, tmp_path):
    """`new_trainer("method=full", …)`: a trainer that has loaded; `folder=` names the place of its record."""

    def load(*overrides: str, folder: Path | None = None):
        experiment, method, config = settings(*overrides)
        return load_trainer(experiment, method, folder or tmp_path / "run", config)

    return load


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


# ---------------------------------------------------------------- training in other processes
@pytest.fixture
def launch(debug_model, tmp_path):
    """`launch("-m", "method=lora", …)` starts `train.py` on the small Llama in `tmp_path`, in a session of its own.

    Of the quick settings those that are given replace the tests'. `python=` are words for the interpreter, other names
    are variables of the environment. What is left of the session is killed at the end of the test.
    """
    started = []
    settings = [*QUICK, f"model.path={debug_model}", "model.name=debug"]

    def start(*words, **more):
        started.append(start_training(complete(words, settings), tmp_path, **more))
        return started[-1]

    yield start
    for process in started:
        end_session(process)


# ---------------------------------------------------------------- the matrix: what was measured, method by method
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


@pytest.fixture
def measured(record_property):
    """`measured("lora", "export reload", 1e-7)` keeps a difference for `--matrix`, in the test's report."""

    def keep(method: str, column: str, difference: float) -> None:
        assert column in COLUMNS
        record_property("matrix", [method, column, difference])

    return keep


def pytest_terminal_summary(terminalreporter, config):
    """The matrix as Markdown, where `--matrix` asks for it: the largest difference of each cell."""
    if not config.getoption("matrix"):
        return
    largest: dict[tuple[str, str], float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == "matrix":
                    method, column, difference = value
                    largest[method, column] = max(difference, largest.get((method, column), 0.0))
    terminalreporter.write_line(f"| {' | '.join(['method', *COLUMNS])} |")
    terminalreporter.write_line(f"| {' | '.join(['---'] * (1 + len(COLUMNS)))} |")
    for method in METHODS:
        figures = [largest.get((method, column)) for column in COLUMNS]
        cells = ["" if figure is None else f"{figure:.2g}" for figure in figures]
        terminalreporter.write_line(f"| {' | '.join([method, *cells])} |")
