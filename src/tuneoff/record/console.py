"""The console: what is printed reaches a terminal of any encoding, and a run outlasts its reader.

Standard library only.
"""

import codecs
import io
import sys
from contextlib import suppress
from errno import EIO, EPIPE
from typing import Any, TextIO

# What our tables hold beyond ASCII, as ASCII has it.
PLAIN = {
    "→": "->",
    "×": "x",
    "·": ".",
    "…": "...",
    "«": "<<",
    "»": ">>",
    "–": "-",
    "Δ": "d",
    "±": "+-",
}


# A pipe without a reader, a terminal that was closed.
READER_GONE = (EPIPE, EIO)


class LastingOutput(io.FileIO):
    """An output whose reader may go away, as `tee` does at Ctrl-C and `head` early: the rest is dropped."""

    def write(self, content: Any, /) -> int:
        """Write bytes, or drop them where nobody can read them any more."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in READER_GONE:
                raise
            return len(content)


def prepare_console() -> None:
    """Let standard output and errors take every text, whatever reads them and for how long."""
    accept_any_text()
    outlast_readers()


def replace_unprintable(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: like signs that the encoding has, or else the code of the sign."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = ""
    for sign in signs:
        code = sign.encode("ascii", "backslashreplace").decode()
        plain += PLAIN.get(sign, code)
    return plain, error.end


def accept_any_text() -> None:
    """Let standard output and errors take every text, whatever the terminal's encoding is."""
    codecs.register_error("tuneoff.plain", replace_unprintable)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="tuneoff.plain")


def outlast_readers() -> None:
    """Keep standard output and errors from failing where their reader is gone: no run is worth less for that."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _make_lasting(sys.stdout)
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _make_lasting(sys.stderr)


def _make_lasting(stream: TextIO) -> TextIO:
    """A stream of the same file and the same kind."""
    with suppress(OSError):
        stream.flush()
    output: Any = LastingOutput(stream.fileno(), "wb", closefd=False)
    write_through = getattr(stream, "write_through", False)
    if not write_through:  # as PYTHONUNBUFFERED=1 asks for, so that all is read at once
        output = io.BufferedWriter(output)
    return io.TextIOWrapper(
        output,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=write_through,
    )
