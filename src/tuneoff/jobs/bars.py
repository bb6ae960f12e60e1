"""Bars: whether this process shows progress bars, ours and those of every library it calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def show_bars(shown: bool) -> Iterator[None]:
    """Show progress bars, or none at all, until the end.

    Libraries have a switch each, or none (transformers' of GGUF files, PEFT's, lm-evaluation-harness'); all draw by
    tqdm.
    """
    if shown:
        yield
        return
    from tqdm.std import tqdm

    begin = tqdm.__init__

    def begin_hidden(self: tqdm, *args: Any, **settings: Any) -> None:
        settings["disable"] = True
        begin(self, *args, **settings)

    tqdm.__init__ = begin_hidden
    try:
        yield
    finally:
        tqdm.__init__ = begin
