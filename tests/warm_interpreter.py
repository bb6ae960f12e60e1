"""Starts commands of `train.py` quickly: a process that has their imports forks a child for each, which is the command.

What a child does is what `python train.py` does, from reading the command line to the interpreter's end; only imports
are shared: those of `train.py` itself (half a second), or those of training too (five). The process composes nothing.
A sweep's forkserver, which would import them once more, is forked before the command begins, and waits to be wanted.
"""

import atexit
import importlib
import json
import multiprocessing.util
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TextIO

TRAIN = str(Path(__file__).parent.parent / "train.py")
POLL_SECONDS = 0.01
MOST_BYTES = 200_000  # of a request: a command line and an environment
FORKSERVER = re.compile(r"import main; main\(\d+, \d+, ")


class WarmProcess:
    """A command that was started; has of `subprocess.Popen` what tests use, with texts in both pipes.

    Args:
        collect_status: the exit status of a process that has ended, None before.
    """

    def __init__(
        self,
        pid: int,
        args: list[str],
        pipes: tuple[TextIO, TextIO],
        collect_status: Callable[[int], int | None],
    ) -> None:
        self.pid = pid
        self.args = args
        self.stdout, self.stderr = pipes
        self.returncode: int | None = None
        self._collect_status = collect_status
        self._outputs: list[Future[str]] = []

    def poll(self) -> int | None:
        """The exit code, None before the end."""
        if self.returncode is None:
            status = self._collect_status(self.pid)
            self.returncode = None if status is None else os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, at the end. Raises `subprocess.TimeoutExpired`."""
        started = time.monotonic()
        while self.poll() is None:
            if timeout is not None and time.monotonic() - started > timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(POLL_SECONDS)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that was written and not read yet, at the end. Raises `TimeoutError`."""
        if not self._outputs:
            readers = ThreadPoolExecutor(2)
            self._outputs = [readers.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            readers.shutdown(wait=False)
        out, err = [output.result(timeout) for output in self._outputs]
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class WarmInterpreter:
    """Starts the process, and commands in it.

    Args:
        modules: imported beside what `train.py` imports. With any, a command's forkserver has them, too.
    """

    def __init__(self, *modules: str) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._statuses: dict[int, int] = {}
        with theirs:
            number = theirs.fileno()
            words = [sys.executable, __file__, str(number), *modules]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[number])

    def start(
        self, words: list[str], folder: Path, environment: dict[str, str], imported: Path | None
    ) -> WarmProcess:
        """`python train.py` with these words in `folder`, in a session of its own.

        Args:
            imported: gets the modules that the command had imported, a name a line.
        """
        request = {
            "words": words,
            "folder": str(folder),
            "environment": environment,
            "imported": imported and str(imported),
        }
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        content = json.dumps(request).encode()
        socket.send_fds(self._requests, [content], [out_end, err_end])
        os.close(out_end)
        os.close(err_end)
        pid = None
        while pid is None:
            pid = self._receive().get("started")
        return WarmProcess(pid, words, (open(out), open(err)), self._collect_status)

    def run(
        self, words: list[str], folder: Path, environment: dict[str, str], scratch: Path
    ) -> subprocess.CompletedProcess:
        """The exit code of a command at its end, and what it wrote; `scratch` gets the file `imported`."""
        process = self.start(words, folder, environment, scratch / "imported")
        with process.stdout, process.stderr:
            out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self.process.wait()

    def _collect_status(self, pid: int) -> int | None:
        while select.select([self._requests], [], [], 0)[0]:
            self._receive()
        return self._statuses.get(pid)

    def _receive(self) -> dict:
        message = self._requests.recv(MOST_BYTES)
        assert message, "the warm interpreter has ended"
        answer = json.loads(message)
        if "ended" in answer:
            self._statuses[answer["ended"]] = answer["status"]
        return answer


# ---------------------------------------------------------------- in the process that forks
def serve(answers: socket.socket, forks_jobs: bool) -> None:
    """Fork a child for each request; a child leaves this function and is the command."""
    running: set[int] = set()
    while True:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                send(answers, ended=pid, status=status)
        if not select.select([answers], [], [], POLL_SECONDS if running else None)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(answers, MOST_BYTES, 2)
        if not message:
            return
        child = os.fork()
        if child == 0:
            os.setsid()
            send(answers, started=os.getpid())
            answers.close()
            become_command(descriptors, forks_jobs, **json.loads(message))
            runpy.run_path(TRAIN, run_name="__main__")
            return
        for descriptor in descriptors:
            os.close(descriptor)
        running.add(child)


def send(answers: socket.socket, **answer: int) -> None:
    """Tell the tests something, unless they have ended."""
    with suppress(BrokenPipeError):
        answers.send(json.dumps(answer).encode())


def become_command(
    descriptors: list[int],
    forks_jobs: bool,
    words: list[str],
    folder: str,
    environment: dict[str, str],
    imported: str | None,
) -> None:
    """In a child: make this process what the shell would have made for the command."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for target, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, target)
        os.close(descriptor)
    # What was open there may have been a file, and files are written to otherwise than pipes.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = [TRAIN, *words]
    from tuneoff.jobs import work

    work.COMMAND[:] = sys.argv  # as it had been imported only now
    if forks_jobs:
        keep_forkserver_ready()
        from tuneoff.jobs import held_cuda

        held_cuda.release_cuda()
    if imported is not None:
        atexit.register(write_imported, imported)


def write_imported(path: str) -> None:
    """The names of all modules that are loaded, a line each."""
    Path(path).write_text("\n".join(sys.modules))


# ---------------------------------------------------------------- a command's forkserver
def keep_forkserver_ready() -> None:
    """Fork now, with no trace of the command, the process that `multiprocessing` will start as its forkserver."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        with theirs:
            code, descriptors, environment = wait_until_wanted(theirs)
        os.environ.clear()
        os.environ.update(environment)
        become_forkserver(code, descriptors)
    theirs.close()
    spawn = multiprocessing.util.spawnv_passfds

    def spawn_or_hand_over(path: str, arguments: list[str], descriptors: list[int]) -> int:
        is_forkserver = FORKSERVER.search(str(arguments[-1])) is not None
        if not is_forkserver or ours.fileno() < 0:
            return spawn(path, arguments, descriptors)
        request = json.dumps([arguments[-1], dict(os.environ)]).encode()
        with ours:
            socket.send_fds(ours, [request], descriptors)
        return pid

    multiprocessing.util.spawnv_passfds = spawn_or_hand_over


def wait_until_wanted(requests: socket.socket) -> tuple[str, list[int], dict[str, str]]:
    """The code that a forkserver is to run, its open files, and its environment; ends here with a command without one."""
    import tuneoff.jobs.die_with_parent  # noqa: F401 (a killed command leaves nothing)

    message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, 2)
    if not message:
        os._exit(0)
    code, environment = json.loads(message)
    return code, descriptors, environment


def become_forkserver(code: str, descriptors: list[int]) -> None:
    """Run a forkserver's code on the files as they are numbered here, and end this process."""
    listener, alive = descriptors
    try:
        exec(FORKSERVER.sub(f"import main; main({listener}, {alive}, ", code), {})
    finally:
        os._exit(0)


if __name__ == "__main__":
    modules = sys.argv[2:]
    sys.path[0] = str(Path(TRAIN).parent)
    runpy.run_path(TRAIN, run_name="imports of train")
    for module in modules:
        importlib.import_module(module)
    serve(socket.socket(fileno=int(sys.argv[1])), forks_jobs=bool(modules))
