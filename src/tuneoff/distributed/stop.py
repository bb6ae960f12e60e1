"""Stop signals: SIGTERM (schedulers, `kill`) and SIGHUP (a closed terminal) end a process in an orderly way.

They raise what Ctrl-C raises, so that everything that cleans up after Ctrl-C cleans up after them; where a step must
not be cut in two, the exception waits. While a run trains, Ctrl-C waits too, and a second one does not. A signal that
was ignored when the process started (`nohup`) stays ignored.
Imports no torch.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# A terminal and a launcher of several processes may both send on the same Ctrl-C.
SAME_KEYPRESS_SECONDS = 1.0
NOTICE = b"\nstopping: a checkpoint is saved first; Ctrl-C again ends at once\n"
NOTICE_AT_END = b"\nthe run has ended, and its record is written; Ctrl-C again ends at once\n"


class StopSignal(KeyboardInterrupt):
    """SIGTERM, SIGHUP, or a first Ctrl-C in a run that trains, came."""


class StopRequest:
    """What a stop signal asks for: an end at once, by a `StopSignal`, or as soon as it can be.

    The exception comes once. Schedulers send several signals, and the second must not break what the first began.
    """

    def __init__(self, relayed: bool = False) -> None:
        """Begin with nothing asked for.

        Args:
            relayed: whether a launcher passes on the Ctrl-C that this process gets from the terminal as well.
        """
        self.name = "a signal"  # of what asked first
        self._relayed = relayed
        self._notice = NOTICE
        self._interrupted_at: float | None = None
        self._requested = False
        self._raised = False
        self._held = False

    def set(self, number: int = signal.SIGTERM) -> None:
        """Ask for the end; called by the signals' handler.

        Raises:
            StopSignal: at the first call, unless it has to wait.
            KeyboardInterrupt: at a second Ctrl-C, or one after another signal.
        """
        if number == signal.SIGINT:
            self._hear_key()
        if not self._requested:
            self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._requested = True
        self._raise_once()

    def _hear_key(self) -> None:
        now = time.monotonic()
        if not self._requested:
            # Not by way of a file object, which the signal may have interrupted. The same Ctrl-C may have ended `tee`.
            with suppress(OSError):
                os.write(2, self._notice)
        elif self._interrupted_at is None or not self._is_same_key(now):
            raise KeyboardInterrupt("ended by a second Ctrl-C")
        self._interrupted_at = now

    def _is_same_key(self, now: float) -> bool:
        assert self._interrupted_at is not None
        return self._relayed and now - self._interrupted_at < SAME_KEYPRESS_SECONDS

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._requested

    def hold(self) -> None:
        """Raise nothing from now on: ranks that wait for each other ask `is_set()` together, and end together."""
        self._held = True

    def hold_to_end(self) -> None:
        """Raise nothing from now on, since the run is over: what is left is its record, which must be whole."""
        self._notice = NOTICE_AT_END
        self.hold()

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
            raise StopSignal(f"stopped by {self.name}")


@contextmanager
def call_on_stop_signals(
    handle: Callable[[int], None], numbers: Sequence[signal.Signals] = STOP_SIGNALS
) -> Iterator[None]:
    """Call `handle` in the main thread with the number of a stop signal; the handlers before are back afterwards.

    Within another thread, where Python lets nobody handle signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in numbers:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:
            before[number] = handler
            signal.signal(number, lambda number, frame: handle(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Of the blocks of `interrupt_on_stop_signals` that this process is in.
_REQUESTS: list[StopRequest] = []


@contextmanager
def interrupt_on_stop_signals(request: StopRequest | None = None) -> Iterator[None]:
    """Let stop signals raise `StopSignal`, once, where nobody else handles them.

    Args:
        request: tells afterwards whether one came, whatever became of the exception.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    request = request or StopRequest()
    _REQUESTS.append(request)
    try:
        with call_on_stop_signals(request.set):
            yield
    finally:
        _REQUESTS.remove(request)


def raise_if_stopped() -> None:
    """Stop where a signal came and nothing ended: a library, or Python's own clean-up, may swallow any exception.

    Raises:
        StopSignal: anew.
    """
    for request in _REQUESTS:
        if request.is_set():
            raise StopSignal(f"stopped by {request.name}")


def ignored_stop_signals() -> list[int]:
    """The stop signals that this process ignores."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
