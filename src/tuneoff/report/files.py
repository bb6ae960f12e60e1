"""Writes the report's files whole, and keeps between reports what is slow to make and always the same."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def put(path: Path, content: str | bytes) -> None:
    """Write atomically, so that a page that is being watched is never read half."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(raw)
    temporary.replace(path)


def kept(name: str, make: Callable[..., str]) -> str:
    """The text that was kept under `name` in the user's cache folder; made, and kept if that can be, where it is not.

    `name` must hold the version of whatever makes the text.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(home, "tuneoff", name)
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8")
    made = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, made)
    return made
