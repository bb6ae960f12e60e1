"""Fixtures of all tests: no network, a small random Llama, ways to train on it, and how tests share the machine."""

import fcntl
import gc
import os
import signal
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack, contextmanager
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
# Where Python keeps no compiled modules, each process that a test starts would compile them all anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import matrix
import pytest
from helpers import (
    FURTHER,
    METHODS,
    PART,
    QUICK,
    SHELF,
    bound,
    complete,
    composed,
    end_session,
    finish,
    inherited_environment,
    prepare_run,
    save_debug_model,
    save_small_set,
    start_training,
)
from warm_interpreter import WarmInterpreter

import tuneoff.cli.run_folder  # noqa: F401 (registers a resolver of config.yaml)
from tuneoff.config import bind, resolve_config
from tuneoff.jobs.processes import PRELOAD

# As the package has them: a test of engines adds its own.
TRAINING_MODULES = tuple(PRELOAD)

sys.dont_write_bytecode = False  # as above, for the children that are forked from this process
# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tokenised sets and what `datasets` keeps: neither read from nor left in the user's own caches.
SCRATCH = tempfile.TemporaryDirectory(prefix="tuneoff-tests-")
os.environ.update(
    TUNEOFF_CACHE=f"{SCRATCH.name}/tuneoff", HF_DATASETS_CACHE=f"{SCRATCH.name}/datasets"
)
# Where the processes of pytest-xdist agree whose turn it is: the first one's, which the others inherit.
TURNS = Path(os.environ.setdefault("TUNEOFF_TESTS_TURNS", SCRATCH.name))


TIME_IS_UP = os.environ.get("TUNEOFF_TESTS_UNTIL")  # seconds since the epoch


# ---------------------------------------------------------------- tests side by side
def pytest_xdist_auto_num_workers(config) -> int:
    """One process more than there are cores, since many tests wait for others, and with the slow ones three more; none
    beside this one where files are named, whose tests have begun sooner without.
    """
    for argument in config.args:
        if Path(argument.partition("::")[0]).is_file():
            return 0
    with_slow_ones = config.getoption("markexpr").startswith("slow")
    return len(os.sched_getaffinity(0)) + (3 if with_slow_ones else 1)


def pytest_collection_modifyitems(config, items):
    """Of slow tests that are marked `rotating`, leave an eighth where `TUNEOFF_TESTS_PART` counts the runs."""
    if "TUNEOFF_TESTS_PART" not in os.environ:
        return
    left_out = []
    for item in items:
        if is_slow(item) and is_rotating(item) and not is_in_this_eighth(item):
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_runtest_setup(item):
    """Skip what has not begun when the time of this run is up, so that CI on a slow machine has a result."""
    if TIME_IS_UP is not None and time.time() > float(TIME_IS_UP):
        pytest.skip("the time of this run is up")


def is_slow(item) -> bool:
    """Whether a run without `-m slow` leaves it out."""
    return item.get_closest_marker("slow") is not None


def is_rotating(item) -> bool:
    """Whether it is one of a family for each choice of `method` that is too long to be run whole each time."""
    return item.get_closest_marker("rotating") is not None


def is_in_this_eighth(item) -> bool:
    """Whether this run has its turn. By the test's name, so that each run has some of every file and method."""
    return zlib.crc32(item.nodeid.encode()) % 8 == PART % 8


@contextmanager
def hold(path: Path, kind: int):
    """Wait for a lock of this kind on a file, and have it."""
    with path.open("a") as file:
        fcntl.flock(file, kind)
        try:
            yield
        finally:
            # By itself the lock would last as long as a process that a test has forked.
            fcntl.flock(file, fcntl.LOCK_UN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that is marked `serial` waits until no other runs, and no other begins before it has ended."""
    alone = item.get_closest_marker("serial") is not None
    with ExitStack() as turn:
        # Who waits to be alone keeps the others from beginning.
        with hold(TURNS / "next", fcntl.LOCK_EX):
            kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            turn.enter_context(hold(TURNS / "running", kind))
        return (yield)


@pytest.fixture(autouse=True)
def environment_stays():
    """What a test, or the code that it runs, writes into the environment is for no other test.

    monkeypatch restores what it changed itself, and `delenv` of a variable that is not there changes nothing.
    """
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


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


@pytest.fixture(scope="session")
def small_settings(debug_model, tmp_path_factory):
    """`small_settings(words)`: the words of a command line, and what makes a quick run on the small Llama of them."""
    rows = save_small_set(tmp_path_factory.mktemp("rows"))
    defaults = [*QUICK, f"model.path={debug_model}", "model.name=debug"]

    def add(words):
        has_data = any(str(word).startswith("data=") for word in words)
        return complete(words, defaults if has_data else [*defaults, f"data.path={rows}"])

    return add


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """Two processes that train one choice after another, started by the first test that asks them."""
    from two_ranks import TwoRanks

    ranks = TwoRanks(tmp_path_factory.mktemp("ranks") / "log")
    yield ranks
    ranks.stop()


@pytest.fixture
def compose_config(small_settings):
    """`compose_config("method=full", …)`: the config as `train.py` composes it, of a quick run on the small Llama."""
    return lambda *words: composed(*small_settings(words))


@pytest.fixture
def settings(compose_config):
    """`settings("method=full", …)`: (experiment, method, config), as `train.py` binds them, of a quick run."""

    def make(*overrides: str):
        cfg = compose_config(*overrides)
        return *bind(cfg), resolve_config(cfg)

    return make


@pytest.fixture
def new_run(settings, tmp_path):
    """`new_run("method=full", …)`: a run that is set up; `folder=` names the place of its record."""

    def load(*overrides: str, folder: Path | None = None):
        experiment, method, config = settings(*overrides)
        return prepare_run(experiment, method, folder or tmp_path / "run", config)

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


@pytest.fixture(scope="session")
def quick_run(small_settings, tmp_path_factory):
    """`quick_run("lora")`: (result, folder) of a method's quick run, made once for all tests that only read it."""
    from tuneoff.training.run import train

    @cache
    def train_once(method: str):
        words = [f"method={method}", "test=true", "eval_every=2"]
        if "galore" in method:
            words.append("galore_rank=8")
        experiment, chosen, config = bound(*small_settings(words))
        folder = tmp_path_factory.mktemp(method)
        return train(experiment, chosen, folder, {"config": config, "command": words}), folder

    return train_once


# ---------------------------------------------------------------- training in other processes
@pytest.fixture
def launch(small_settings, tmp_path):
    """`launch("-m", "method=lora", …)` starts a quick `train.py` in `tmp_path`, in a session of its own.

    Of the quick settings those that are given replace the tests'. `python=` are words for the interpreter, other names
    are variables of the environment. What is left of the session is killed at the end of the test.
    """
    started = []

    def start(*words, **more):
        started.append(start_training(small_settings(words), tmp_path, **more))
        return started[-1]

    yield start
    for process in started:
        end_session(process)


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


@pytest.fixture(scope="session")
def warm_trainer():
    """An interpreter that has imported all that training needs, and runs commands in forked children."""
    interpreter = WarmInterpreter(*TRAINING_MODULES)
    yield interpreter
    interpreter.close()


@pytest.fixture
def command(warm_trainer, small_settings, tmp_path, tmp_path_factory):
    """`command("method=lora", …)` runs a quick `train.py` in `tmp_path` to its end: exit code, output, errors."""

    def run(*words, **environment: str):
        scratch = tmp_path_factory.mktemp("command")
        variables = {**inherited_environment(), **environment}
        return warm_trainer.run(small_settings(words), tmp_path, variables, scratch)

    return run


# ---------------------------------------------------------------- the matrix: what was measured, method by method
def pytest_addoption(parser):
    parser.addoption(
        "--matrix",
        action="store_true",
        help="renew tests/MATRIX.md by the differences that are measured, method by method",
    )


@pytest.fixture
def measured(record_property):
    """`measured("lora", "exported", 1e-7)` keeps a difference for `--matrix`, in the test's report.

    Where a cell cannot hold, the reason stands in place of the difference.
    """

    def keep(method: str, column: str, difference: float | str) -> None:
        assert column in matrix.COLUMNS
        record_property("matrix", [method, column, difference])

    return keep


def pytest_terminal_summary(terminalreporter, config):
    """Write what tests that passed have measured into the matrix, where `--matrix` asks for it."""
    if not config.getoption("matrix"):
        return
    found = []
    for report in terminalreporter.stats.get("passed", []):
        found += [value for name, value in report.user_properties if name == "matrix"]
    before = matrix.FILE.read_text() if matrix.FILE.exists() else ""
    table = matrix.Matrix.read(before)
    table.renew(found)
    matrix.FILE.write_text(table.to_markdown([*METHODS, *SHELF, *FURTHER]))
    terminalreporter.write_line(f"{matrix.FILE}: {len(found)} measurements")
