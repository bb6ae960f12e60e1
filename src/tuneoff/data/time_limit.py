"""A time limit for code that is not ours, in any thread and without signals."""

import ctypes
import threading
import time
from types import TracebackType

POLL_SECONDS = 0.1


class TimeLimitExceeded(BaseException):
    """What ran under a time limit took longer. No `except Exception` on the way holds it up."""


class TimeLimit:
    """Raises `TimeLimitExceeded` in the thread that entered it, once its work takes too long.

    A second thread looks at the clock and asks the interpreter to raise in the first. SIGALRM
    would do so in the main thread alone, and evaluations and servers load data in others. It ends
    any Python code, a template's loops among them, but not one long call into C.

    The clock is the process's CPU time: a machine under load or a stopped process is no loop.
    """

    def __init__(self, seconds: float):
        """Allow `seconds` from entering, and again from each `restart`."""
        self.seconds = seconds
        self._thread_id = 0
        self._deadline = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def restart(self) -> None:
        """Give the work that begins now the whole time."""
        self._deadline = time.process_time() + self.seconds

    def __enter__(self) -> "TimeLimit":
        """Begin to watch this thread."""
        self._thread_id = threading.get_ident()
        self.restart()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the watch; an exception that was asked for and has not come yet comes no more."""
        self._ended.set()
        with self._lock:
            raise_in_thread(self._thread_id, None)

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            if time.process_time() < self._deadline:
                continue
            with self._lock:
                if not self._ended.is_set():
                    raise_in_thread(self._thread_id, TimeLimitExceeded)
            return


def raise_in_thread(thread_id: int, error: type[BaseException] | None) -> None:
    """Have an exception raised between two instructions of a thread; None takes a pending one back."""
    exception = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), exception)
