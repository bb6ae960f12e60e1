"""Where something is to be written: whether the folder can be made there. Standard library only."""

import os
from pathlib import Path

LONGEST_NAME = 255  # bytes, of a file or a folder, on any file system that is in use


def describe_unusable(folder: Path) -> str | None:
    """Why a folder cannot be made or written in; None where it can."""
    if str(folder).startswith("~"):
        return "there is no such user"
    too_long = [part for part in folder.parts if len(os.fsencode(part)) > LONGEST_NAME]
    if too_long:
        return f"a name in it has more than {LONGEST_NAME} bytes"
    try:
        existing = deepest_existing(folder)
    except (OSError, ValueError) as error:  # too long as a whole, a ring of links; a null byte
        return describe_error_of_path(error)
    if not existing.is_dir():
        what = "a link to nothing" if existing.is_symlink() else "a file"
        return f"{existing} is {what}"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"you have no permission to write in {existing}"
    return None


def describe_error_of_path(error: OSError | ValueError) -> str:
    """What the system has against a path."""
    reason = getattr(error, "strerror", None) or str(error)
    return reason.lower()


def deepest_existing(path: Path) -> Path:
    """The deepest folder, file or link on the way to `path` that exists.

    Raises:
        OSError: no path can be so.
        ValueError: it holds a null byte.
    """
    path = path.absolute()
    for existing in (path, *path.parents):
        try:
            os.stat(existing)
        except (FileNotFoundError, NotADirectoryError):
            if not existing.is_symlink():
                continue
        return existing
    return path
