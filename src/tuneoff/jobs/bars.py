"""Bars: whether this process shows progress bars, ours and those of every library it calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any


@contextmanager
def show_bars(shown: bool) -> Iterator[None]:
    """Show progress bars, or none at all, until the end.

    Libraries have a switch each, or none (transformers' of GGUF files, PEFT's, lm-evaluation-harness'); all draw by
    tqdm.
    """
    from tqdm.std import tqdm

    # No other process draws here. tqdm's own lock is a semaphore, which a job that is stopped would leave behind, and
    # Python would say so below our last line.
    tqdm.set_lock(RLock())
    if shown:
        yield
        return
    begin = tqdm.__init__

    def begin_hidden(self: tqdm, *args: Any, **settings: Any) -> None:
        settings["disable"] = True
        begin(self, *args, **settings)

    tqdm.__init__ = begin_hidden
    try:
        yield
    finally:
        tqdm.__init__ = begin
