"""Two ranks that stay: started once, they train one choice after another, as `torchrun` would start them for each."""

import base64
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

from helpers import ROOT, prepare_run

COUNT = 2
# What cannot give the losses of one process, and why.
OTHER_LOSSES = {
    "lily": "its router takes the mean over the tokens of a micro-batch, so that its rows depend on each other",
    "pvera": "draws noise as it trains, and each process draws other noise",
}


class TwoRanks:
    """A pair of processes that meet over gloo; pickled settings go in, losses come out."""

    def __init__(self, log: Path):
        self.log = log
        self.processes: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start both, where they do not run yet."""
        if self.processes:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(COUNT):
            variables = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": COUNT,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "PYTHONPATH": ROOT / "tests",
            }
            environment = os.environ | {name: str(value) for name, value in variables.items()}
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, __file__],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            self.processes.append(process)

    def train(self, settings: tuple, folder: Path) -> dict:
        """What the first rank answers: its `losses`, one a step, or the `error` that ended it."""
        self.start()
        job = base64.b64encode(pickle.dumps((*settings, folder))).decode()
        for process in self.processes:
            process.stdin.write(f"{job}\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in self.processes]
        if not all(answers):
            self.stop()
            return {"error": "a rank has ended"}
        first, other = map(json.loads, answers)
        if "error" in first or "error" in other:
            self.stop()  # what they still have to tell each other is lost
        return first if "error" in first or "error" not in other else other

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []


def train_losses(settings: tuple, folder: Path) -> list[float]:
    """The losses of a run in this process, or of this rank's part in one."""
    experiment, method, config = settings
    training = prepare_run(experiment, method, folder, config)
    training.fit()
    training.parts.recorder.close()
    return [line["loss"] for line in training.parts.recorder.curve if "loss" in line]


def compare_ranks(make_settings, ranks: TwoRanks, folder: Path, measured, method: str) -> None:
    """Six steps of four rows in one process, and in two: the same losses, or the method says why it refuses.

    Args:
        make_settings: `make_settings(method, *words)` returns (experiment, method, config).
    """
    from tuneoff.config import ConfigError

    shared = ["max_steps=6", "max_grad_norm=null", "data.splits.validation=null"]
    try:
        divided = make_settings(
            method, *shared, "batch_size=1", "gradient_accumulation_steps=2", "num_processes=2"
        )
    except ConfigError as refused:
        measured(method, "two processes", refused.allowed)
        return
    together = ranks.train(divided, folder / "two")
    assert "error" not in together, together["error"]
    alone = train_losses(make_settings(method, *shared, "batch_size=4"), folder / "one")
    assert len(alone) == len(together["losses"]) == 6
    largest = max(abs(one - two) for one, two in zip(alone, together["losses"], strict=True))
    if method in OTHER_LOSSES:
        measured(method, "two processes", OTHER_LOSSES[method])
        assert largest > 1e-5
        return
    measured(method, "two processes", largest)
    assert largest <= 1e-5


def serve() -> None:
    """Train what is asked for, line by line; nothing but answers is printed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import tuneoff.methods  # noqa: F401 (methods register their options)

    rank = int(os.environ["RANK"])
    for line in sys.stdin:
        *settings, folder = pickle.loads(base64.b64decode(line))
        try:
            answer = {"losses": train_losses(settings, folder / str(rank))}
        except Exception as error:  # the test says what it was
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
