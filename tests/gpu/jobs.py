"""Jobs of the GPU check: one run through tuneoff each, in a process of its own as a sweep's jobs are. Imports no torch."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "gpu")]

import helpers  # noqa: E402 (it registers the methods)

import tuneoff.cli.main  # noqa: E402, F401 (registers the resolvers of config.yaml)
from tuneoff.config import ConfigError, identify_run  # noqa: E402
from tuneoff.jobs import supervisor  # noqa: E402
from tuneoff.jobs.work import TrainWork  # noqa: E402
from tuneoff.record import read_json, read_metrics  # noqa: E402

JOB_SECONDS = 150
MOST_CHARACTERS = 600  # of an error, in the figures
COMPOSING = threading.Lock()  # Hydra composes one config at a time
DRY_ROWS = ("data.limit=16", "max_length=64")
SHOWN_KEYS = ("tokens_per_second", "step_seconds")


@dataclass
class Check:
    """What a check is told, and where it works."""

    folder: Path
    dry: bool
    seconds: float
    layers: int = 24
    slim_layers: int = 2  # for GaLore, whose first step is an SVD of each matrix
    workers: int = 4
    predictions: dict = field(default_factory=dict)
    sections: dict = field(default_factory=dict)  # what each section has found
    began: float = field(default_factory=time.monotonic)

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return 32 if self.dry else 1024

    @property
    def steps(self) -> int:
        """Optimizer steps of a timed job."""
        return 4 if self.dry else 10

    @property
    def sweep_steps(self) -> int:
        """Optimizer steps of a job of a sweep from the command line."""
        return 2 if self.dry else 6

    def methods(self, batch_size: int) -> list[str]:
        """Every method; a dry run tries another kind for each batch size."""
        if not self.dry:
            return helpers.METHODS
        return ["full"] if batch_size == 1 else ["lora", "galore"]

    def choose(self, jobs: dict[str, list[str]], *dry: str) -> dict[str, list[str]]:
        """The jobs of a section, of which a dry run does those that are named."""
        return {name: words for name, words in jobs.items() if not self.dry or name in dry}

    def quick_words(self) -> list[str]:
        """Settings of the small model, on which what does not depend on its size is tried."""
        words = ["model=tiny", "max_steps=8", "batch_size=4", "eval_batch_size=8"]
        if not self.dry:
            return [*words, "data.limit=128"]
        return [*words, f"model.path={self.model_folder('galore')}", *DRY_ROWS]

    def full_rows(self, batch_size: int) -> list[str]:
        """Settings under which each row has max_length tokens, all of them labels, as a prediction assumes."""
        return [
            "data=json",
            f"data.path={self.folder / 'text.jsonl'}",
            "data.columns.text=text",
            "data.validation_share=0.06",
            f"max_length={self.length}",
            f"batch_size={batch_size}",
            f"eval_batch_size={batch_size}",
            f"max_steps={self.steps}",
        ]

    def model_folder(self, method: str) -> Path:
        """Where the model is that a method trains: the whole shape, or for GaLore fewer layers of it."""
        name = "slim" if "galore" in method else "whole"
        return self.folder / name

    def left_seconds(self) -> float:
        """Until the check is to end."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, text: str) -> None:
        """Print a line with the time."""
        passed = time.monotonic() - self.began
        print(f"[{passed:6.1f} s] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class KilledWork(TrainWork):
    """Training that dies by SIGKILL right after it has written down a step."""

    last_step: int = 0

    def run(self) -> dict:
        """Train until then."""
        from tuneoff.training.step_log import StepLog

        write = StepLog.write

        def write_and_die(log: StepLog, numbers: Any, *more: Any) -> None:
            write(log, numbers, *more)
            if numbers.step == self.last_step:
                os.kill(os.getpid(), signal.SIGKILL)

        StepLog.write = write_and_die  # type: ignore[method-assign]
        return super().run()


def make_work(folder: Path, words: list[str], last_step: int | None = None) -> TrainWork:
    """The work that a command line with these words would do in a folder."""
    with COMPOSING:
        cfg = helpers.composed("tracker=none", "progress=false", *words)
        experiment, method, config = helpers.bound("tracker=none", "progress=false", *words)
        start = {"identity": identify_run(cfg), "config": config, "command": words}
    start |= {"sweep": None, "method": experiment.method, "seed": experiment.seed}
    if last_step is None:
        return TrainWork(experiment, method, folder, start)
    return KilledWork(experiment, method, folder, start, last_step)


def run_job(
    check: Check,
    name: str,
    *words: str,
    last_step: int | None = None,
    memory_gib: float | None = None,
) -> dict:
    """Do one run; return what its record says, cut down. A name that was there before goes on in its folder."""
    folder = check.folder / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        work = make_work(folder, list(words), last_step)
        limits = supervisor.Limits(memory_gib, JOB_SECONDS)
        supervisor.run_supervised(work, limits, folder / "run.log")
        figures = read_figures(folder)
    except ConfigError as error:
        figures = {"status": "refused", "error": str(error)[:MOST_CHARACTERS]}
    figures["wall_seconds"] = round(time.monotonic() - started, 2)
    error = figures.get("error") or ""
    check.say(f"{name}: {figures['status']} in {figures['wall_seconds']} s {error[:160]}")
    return figures


def read_figures(folder: Path) -> dict:
    """What a run's record says, cut down to what the check shows."""
    result = read_json(folder / "result.json") or {"status": "no result"}
    memory = result.get("memory") or {}
    throughput = result.get("throughput") or {}
    error = result.get("error")
    losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
    return {
        "status": result["status"],
        "error": error and f"{error['type']}: {error['message']}"[:MOST_CHARACTERS],
        "measure": memory.get("measure"),
        "peak_gib": memory.get("peak_gib"),
        "breakdown_gib": memory.get("train_breakdown_gib"),
        "attention": result.get("attention"),
        "warnings": (result.get("facts") or {}).get("warnings", []),
        "losses": losses,
        **{key: throughput.get(key) for key in SHOWN_KEYS},
    }


def run_jobs(check: Check, jobs: dict[str, list[str]], workers: int | None = None) -> dict:
    """Do several runs side by side, by name; not for what is timed."""
    with ThreadPoolExecutor(workers or check.workers) as pool:
        futures = {name: pool.submit(run_job, check, name, *words) for name, words in jobs.items()}
        return {name: future.result() for name, future in futures.items()}


def call_in_child(check: Check, name: str, function: Callable, *arguments: object) -> dict:
    """Call a function in a process of its own, which has the device to itself; return what it answers."""
    folder = check.folder / "calls" / name
    folder.mkdir(parents=True, exist_ok=True)
    work = helpers.call_work(folder, answer, folder, function, *arguments)
    supervisor.run_supervised(work, supervisor.Limits(None, JOB_SECONDS), folder / "run.log")
    content = read_json(folder / "answer.json")
    return content or {"error": (read_figures(folder)["error"] or "no answer")}


def answer(folder: Path, function: Callable, *arguments: object) -> None:
    """In the child: leave what a function returns, and a result that says so."""
    content = function(*arguments)
    (folder / "answer.json").write_text(json.dumps(content))
    (folder / "result.json").write_text(json.dumps({"status": "finished"}))


def run_command(check: Check, folder: Path, *words: str, **environment: str) -> dict:
    """Do a sweep as a user does, from the command line; return its exit code and what its jobs came to."""
    command = [sys.executable, helpers.ROOT / "train.py", "-m", *words, "tracker=none"]
    rows = [*DRY_ROWS, "batch_size=2"] if check.dry else ["data.limit=64"]
    command += [*rows, f"max_steps={check.sweep_steps}", f"hydra.sweep.dir={folder}"]
    done = subprocess.run(
        command,
        cwd=check.folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    jobs = [read_figures(path.parent) for path in sorted(folder.rglob("result.json"))]
    return {"exit_code": done.returncode, "jobs": jobs, "tail": done.stderr[-1500:]}
