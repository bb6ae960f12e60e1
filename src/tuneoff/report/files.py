"""Kept texts: what is slow to make and always the same, kept in the user's cache folder between reports."""

from collections.abc import Callable
from contextlib import suppress

from tuneoff.record import cache_folder, is_private, make_private_folder, write_atomically

put = write_atomically


def kept(name: str, make: Callable[..., str]) -> str:
    """The text that was kept under `name` in the user's cache folder; made, and kept if that can be, where it is not.

    `name` must hold the version of whatever makes the text.
    """
    path = cache_folder() / name
    if is_private(path):
        with suppress(OSError, UnicodeDecodeError):
            return path.read_text("utf-8")
    made = make()
    with suppress(OSError):
        make_private_folder(path.parent)
        write_atomically(path, made, private=True)
    return made
