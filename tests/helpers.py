"""What the tests share: places, a small model, training in this process, and starting `train.py` in others.

Nothing here imports torch at its head: tests of refusals, plans and reports start without it.
"""

import json
import lzma
import math
import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

import tuneoff.methods  # noqa: F401 (methods register their options)
from tuneoff import record
from tuneoff.config import bind, resolve_config
from tuneoff.jobs.work import TrainWork

ROOT = Path(__file__).parent.parent
TINY = ROOT / "src" / "tuneoff" / "assets" / "tiny"


def has_tuner(method: str) -> bool:
    """Whether a choice's YAML names one of PEFT's tuners."""
    return "/peft_type@peft" in (ROOT / "conf" / "method" / f"{method}.yaml").read_text()


# Every choice of `method`, and those of README's first table: tests over METHODS run through each of these.
FOUND = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
METHODS = sorted(re.findall(r"^\| (\w+) \| [\d.]+ %", (ROOT / "README.md").read_text(), re.M))
# The others have matrices of their own: PEFT's tuners in tests/test_shelf.py, and what trains otherwise in
# tests/test_shelf_optimizers.py. Slow tests run them for all; a normal run would be minutes longer, and takes a sixteenth:
# those whose name's hash falls on the part that the environment names. The hash keeps a choice in its part when others
# come, and .ci/run goes on to the next part with each commit.
SHELF = sorted(name for name in set(FOUND) - set(METHODS) if has_tuner(name))
FURTHER = sorted(set(FOUND) - set(METHODS) - set(SHELF))
PARTS = 16
PART = int(os.environ.get("TUNEOFF_TESTS_PART", "0")) % PARTS
QUICK = [
    "tracker=none",
    "progress=false",
    "data.limit=48",
    "max_length=96",
    "batch_size=4",
    "max_steps=4",
    "mixed_precision=no",  # on a GPU, too
]


def in_this_part(method: str) -> bool:
    """Whether a normal run tests a choice of the shelf."""
    return zlib.crc32(method.encode()) % PARTS == PART


def quick_of(cases: Iterable[object], *quick: object) -> list:
    """The cases of a family of tests: those that are named run each time, the others with the slow tests."""
    listed = list(cases)
    assert set(quick) <= set(listed)
    slow = pytest.mark.slow
    return [pytest.param(case, marks=() if case in quick else slow) for case in listed]


CHOICES = ("method", "model", "data", "forgetting.data")  # keys that choose a file of conf


# ---------------------------------------------------------------- a config, a model, a set
@cache
def compose_choices(*words: str):
    """The config of these choices alone. Shared: who changes it takes a copy."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(words))


def composed(*words: str):
    """The config as `train.py` composes it.

    Hydra takes a fifth of a second to compose. So files are composed once for each choice of them, and values are put
    in afterwards by Hydra's own function, which is its last step anyhow.
    """
    choices = [word for word in words if is_choice(word)]
    values = [word for word in words if not is_choice(word)]
    cfg = deepcopy(compose_choices(*choices))
    parsed = OverridesParser.create().parse_overrides(values)
    ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
    return cfg


def is_choice(word: str) -> bool:
    """Whether an override adds or takes away a key, or chooses a file."""
    return word.startswith(("+", "~")) or word.partition("=")[0] in CHOICES


def bound(*words: str):
    """(experiment, method, config as it is recorded), as `train.py` binds them."""
    cfg = composed(*words)
    return *bind(cfg), resolve_config(cfg)


def save_small_set(folder: Path) -> Path:
    """The first 48 rows of each split of the embedded set: with `data.limit=48` the same rows, without the others."""
    kept = Counter()
    lines = []
    with lzma.open(ROOT / "src" / "tuneoff" / "assets" / "corpus" / "docstrings.jsonl.xz") as file:
        for line in file:
            split = json.loads(line)["split"]
            kept[split] += 1
            if kept[split] <= 48:
                lines.append(line)
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def save_debug_model(folder: Path, tied: bool = True) -> Path:
    """A three-layer Llama with random weights and tiny's tokenizer."""
    import torch
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


def foreseen(*overrides: str):
    """(experiment, method) as `train.py task=predict` binds them."""
    return bind(composed("task=predict", *overrides))


# ---------------------------------------------------------------- training in this process
def prepare_run(experiment, method, folder: Path, config: dict):
    """A run that is set up, and whose record in `folder` is begun."""
    from tuneoff.training.run import Run

    training = Run(experiment, method, record.Recorder(folder))
    training.prepare({"config": config})
    return training


class Killed(BaseException):
    """Stands for the moment of a SIGKILL in this process: nothing after it runs."""


def kill_inside(training, due: Callable[[], bool]) -> None:
    """Let the process of a run die in the first step that is `due()`, inside its accumulation window.

    That is behind the first micro-batch's backward pass, in which layer-wise GaLore has changed the weights already.
    """
    backward = training.parts.engine.backward

    def until(loss):
        backward(loss)
        if due():
            raise Killed

    training.parts.engine.backward = until


def end_whole_and_killed(prepare: Callable, folder: Path, killed_in: int) -> list[tuple]:
    """What a run ends with, its trajectory and weights: taken whole, and killed inside a step and resumed.

    Args:
        prepare: sets a run up, given the word that says how it resumes, and a folder.
        killed_in: the step, from 0.
    """
    ends = []
    for name, resumes in (("whole", ["never"]), ("killed", ["never", "auto"])):
        for resume in resumes:
            training = prepare(f"resume={resume}", folder / name)
            if name == "killed" and resume == "never":
                kill_inside(training, lambda training=training: training.trainer.step == killed_in)
                with pytest.raises(Killed):
                    training.fit()
            else:
                training.fit()
            training.parts.recorder.close()
        ends.append((trajectory(folder / name), dict(training.parts.model.named_parameters())))
    return ends


def trajectory(folder: Path) -> list[dict]:
    """Everything a run has measured that does not depend on the clock."""
    return [
        {key: value for key, value in line.items() if not is_of_the_machine(key)}
        for line in record.read_metrics(folder)
    ]


def is_of_the_machine(key: str) -> bool:
    """Whether a figure of a step says how fast or full the machine was, and so differs from run to run."""
    return "second" in key or key.endswith("_gib") or key == "mfu"


def apart(one, other) -> float:
    """Largest difference of two numbers, tensors, or nests of them; infinite where they are not alike."""
    import torch

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


# ---------------------------------------------------------------- starting `train.py`
def complete(words: Sequence[object], settings: Sequence[str]) -> list[str]:
    """The words of a command line, and of `settings` those whose keys they do not name."""
    words = [str(word) for word in words]
    keys = {word.partition("=")[0] for word in words}
    return words + [setting for setting in settings if setting.partition("=")[0] not in keys]


def python_path(folder: Path) -> str:
    """PYTHONPATH with `folder` before what it held: the checkout that is tested may stand there."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(folder), *([before] if before else [])])


def inherited_environment() -> dict[str, str]:
    """This process's variables, but the service that W&B leaves in them once it ran: each run starts its own."""
    return {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}


def start_training(
    words: Sequence[object],
    folder: Path,
    python: Sequence[str] = (),
    **environment: str,
) -> subprocess.Popen:
    """`python train.py` with these words, in `folder` and in a session of its own.

    Args:
        python: what stands between the interpreter and `train.py`, as `-m torch.distributed.run`.
        environment: variables beside this process's own.
    """
    return subprocess.Popen(
        [sys.executable, *python, ROOT / "train.py", *map(str, words)],
        cwd=folder,
        env={**inherited_environment(), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, seconds: float = 280) -> subprocess.CompletedProcess:
    """Wait for a process's end: its exit code and what it wrote."""
    out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(condition: Callable, process: subprocess.Popen | None = None, seconds: float = 150):
    """What `condition()` returns, as soon as it is true; `process` must live until then."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"waited for {seconds} seconds"
        time.sleep(0.01)
    return answer


def session(pid: int) -> list[psutil.Process]:
    """Every living process of the session that `pid` began."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def left_of_session(pid: int, seconds: float) -> list[str]:
    """The names of what still lives of a session when it has had so many seconds to end."""
    end = time.monotonic() + seconds
    while (left := session(pid)) and time.monotonic() < end:
        time.sleep(0.02)
    return [process.name() for process in left]


def end_session(process: subprocess.Popen) -> None:
    """Kill a process and all of its session that still live."""
    for left in session(process.pid):
        left.kill()
    process.communicate()


# ---------------------------------------------------------------- a launching process whose job hangs
@dataclass(frozen=True)
class CallWork(TrainWork):
    """Calls a function in place of training, in as many ranks as it is told."""

    function: Callable
    arguments: tuple
    processes: int = 1

    @property
    def ranks(self) -> int:
        return self.processes

    def run(self) -> dict:
        self.function(*self.arguments)
        return {"status": "finished"}


def call_work(folder: Path, function: Callable, *arguments, ranks: int = 1) -> CallWork:
    """Work for a supervisor that calls a function; its record begins with `START`."""
    return CallWork(None, None, folder, START, function, arguments, ranks)


START = {"identity": "12345678", "method": "lora", "seed": 3, "config": {"method": "lora"}}
LAUNCHER = """import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import helpers
from tuneoff.jobs import supervisor
folder = Path(sys.argv[2])
work = helpers.call_work(folder, helpers.hang, folder, 1, ranks=int(sys.argv[3]))
supervisor.run_supervised(work, supervisor.Limits())
"""


def hang(folder: Path, lines: int = 0) -> None:
    """A job that writes some lines of metrics, a line in 0.3 seconds, and then nothing for a minute."""
    for step in range(1, lines + 1):
        with (folder / record.METRICS).open("a") as metrics:
            metrics.write(json.dumps({"step": step, "loss": 1.0, "tokens": 10 * step}) + "\n")
        time.sleep(0.3)
    time.sleep(60)


@contextmanager
def hanging_launcher(folder: Path, ranks: int = 1) -> Iterator[subprocess.Popen]:
    """A process of its own, in a session of its own, whose job of so many ranks hangs."""
    words = [sys.executable, "-c", LAUNCHER, Path(__file__).parent, folder, str(ranks)]
    process = subprocess.Popen(words, start_new_session=True, text=True, stderr=subprocess.PIPE)
    try:
        wait_for((folder / record.METRICS).exists, process)
        yield process
    finally:
        end_session(process)
