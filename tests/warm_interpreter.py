"""Runs commands of `train.py` quickly: a process that has its imports forks a child for each, which is the command.

What a child does is what `python train.py` does, from reading the command line to the interpreter's end; only imports
are shared: those of `train.py` itself (half a second), or those of training too (five). The process composes nothing.
"""

import atexit
import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

TRAIN = str(Path(__file__).parent.parent / "train.py")


class WarmInterpreter:
    """Starts the process, and runs one command after another in it.

    Args:
        modules: imported beside what `train.py` imports.
    """

    def __init__(self, *modules: str) -> None:
        words = [sys.executable, __file__, *modules]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, words: list[str], folder: Path, environment: dict[str, str], scratch: Path
    ) -> subprocess.CompletedProcess:
        """The exit code of `python train.py` with these words in `folder`, and what it wrote.

        Args:
            scratch: gets files of what was written, and `imported`, the modules that the command had imported.
        """
        request = {
            "words": words,
            "folder": str(folder),
            "environment": environment,
            "scratch": str(scratch),
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        out = (scratch / "stdout").read_text()
        err = (scratch / "stderr").read_text()
        return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status), out, err)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def become_command(
    words: list[str], folder: str, environment: dict[str, str], scratch: str
) -> None:
    """In a child: make this process what the shell would have made for the command."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{scratch}/{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = [TRAIN, *words]
    atexit.register(write_imported, f"{scratch}/imported")


def write_imported(path: str) -> None:
    """The names of all modules that are loaded, a line each."""
    Path(path).write_text("\n".join(sys.modules))


def serve() -> None:
    """Fork a child for each request; a child leaves this function and is the command."""
    while request := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become_command(**json.loads(request))
            runpy.run_path(TRAIN, run_name="__main__")
            return
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


if __name__ == "__main__":
    sys.path[0] = str(Path(TRAIN).parent)
    runpy.run_path(TRAIN, run_name="imports of train")
    for module in sys.argv[1:]:
        importlib.import_module(module)
    serve()
