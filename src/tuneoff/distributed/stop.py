"""Stop signals: SIGTERM (schedulers, `kill`) and SIGHUP (a closed terminal) end a process in an orderly way.

They raise what Ctrl-C raises, so that everything that cleans up after Ctrl-C cleans up after them; where a step must
not be cut in two, the exception waits. A signal that was ignored when the process started (`nohup`) stays ignored.
Imports no torch.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class StopSignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP came."""


class StopRequest:
    """What a stop signal asks for: an end at once, by a `StopSignal`, or as soon as it can be.

    The exception comes once. Schedulers send several signals, and the second must not break what the first began.
    """

    def __init__(self) -> None:
        self._requested = False
        self._raised = False
        self._held = False

    def set(self) -> None:
        """Ask for the end; called by the signals' handler.

        Raises:
            StopSignal: at the first call, unless it has to wait.
        """
        self._requested = True
        self._raise_once()

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._requested

    def hold(self) -> None:
        """Raise nothing from now on: ranks that wait for each other ask `is_set()` together, and end together."""
        self._held = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep the exception back until the end of this block.

        Raises:
            StopSignal: at its end, where the block itself raised nothing.
        """
        before = self._held
        self._held = True
        try:
            yield
        finally:
            self._held = before
        if self._requested:
            self._raise_once()

    def _raise_once(self) -> None:
        if not self._held and not self._raised:
            self._raised = True
            raise StopSignal("stopped by a signal")


@contextmanager
def call_on_stop_signals(handle: Callable[[], None]) -> Iterator[None]:
    """Call `handle` in the main thread when a stop signal comes; the handlers before are back afterwards.

    Within another thread, where Python lets nobody handle signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in STOP_SIGNALS:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:
            before[number] = handler
            signal.signal(number, lambda number, frame: handle())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_on_stop_signals() -> Iterator[None]:
    """Let stop signals raise `StopSignal`, once, where nobody else handles them."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    with call_on_stop_signals(StopRequest().set):
        yield


def ignored_stop_signals() -> list[int]:
    """The stop signals that this process ignores."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
