"""Ranks that a launcher has started: whatever ends one, the run leaves a record, also where the others wait for ever."""

import time
from pathlib import Path

import pytest
from helpers import finish, python_path
from test_torchrun import TORCHRUN

from tuneoff.record import read_json

# Python imports this by itself, in torchrun, in the ranks, and in the first one's forkserver. In the third step a rank
# is lost; the others do what NCCL does then: they wait, whatever signals come, and nothing raises in them.
PATCH = """
import os, signal, sys, time
from importlib.machinery import PathFinder


def lose_a_rank(module):
    one_step = module.Trainer.take_step

    def until(self, step):
        if step < 2:
            return one_step(self, step)
        if self.parts.ranks.index == {lost}:
            {failure}
        while True:
            time.sleep(0.1)

    module.Trainer.take_step = until


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "tuneoff.training.trainer":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            lose_a_rank(module)

        spec.loader.exec_module = execute_and_patch
        return spec


sys.meta_path.insert(0, Finder)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
CASES = {
    "the second raises": (1, "raise MemoryError('no more')", "out_of_memory", "rank 1: no more"),
    "the second is killed": (1, KILL, "killed", "rank 1 of 2 has ended without a word"),
    "the first is killed": (0, KILL, "killed", "the process ended by SIGKILL and left no result"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_lost_rank_is_in_the_record_though_the_others_wait_for_it(launch, tmp_path, case):
    lost, failure, status, message = CASES[case]
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "sitecustomize.py").write_text(PATCH.format(lost=lost, failure=failure))
    process = launch(
        "method=lora", "hydra.run.dir=here", python=TORCHRUN, PYTHONPATH=python_path(patches)
    )
    folder: Path = tmp_path / "here"
    began = time.monotonic()
    done = finish(process)
    result = read_json(folder / "result.json")
    assert done.returncode != 0
    assert (result["status"], result["error"]["message"]) == (status, message), done.stderr
    assert [line["step"] for line in result["curve"]] == [0, 1, 2]
    assert time.monotonic() - began < 120  # a collective's own time-out is 12 hours
