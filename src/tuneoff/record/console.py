"""The console: what is printed reaches a terminal of any encoding. Standard library only."""

import codecs
import sys

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
