"""Vega's scripts for the page, kept in the user's cache folder between reports: bundling them takes a second."""

from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import vl_convert

from tuneoff.record import cache_folder, is_private, make_private_folder, write_atomically


@cache
def load_vega() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, as vl-convert ships them."""
    path = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    script = _read_kept(path)
    if script is None:
        # The stub lacks the default snippet.
        script = vl_convert.javascript_bundle()  # type: ignore[call-arg]
        _keep(path, script)
    return script


def _read_kept(path: Path) -> str | None:
    """The script in `path`; None where there is none, it was damaged, or another user could have changed it."""
    if not is_private(path):
        return None
    with suppress(OSError, UnicodeDecodeError):
        first_line, _, script = path.read_text("utf-8").partition("\n")
        if first_line == _digest_line(script):
            return script
    return None


def _keep(path: Path, script: str) -> None:
    """Write the script with its hash above it; where that cannot be, the next report bundles it again."""
    with suppress(OSError):
        make_private_folder(path.parent)
        write_atomically(path, f"{_digest_line(script)}\n{script}", private=True)


def _digest_line(script: str) -> str:
    return f"// sha256 {sha256(script.encode()).hexdigest()}"
