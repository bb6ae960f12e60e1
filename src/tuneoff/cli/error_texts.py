"""What stands in the messages of errors that Hydra and OmegaConf raise."""

import re


def first_line(error: BaseException) -> str:
    """The first line of a message that is not blank, or nothing."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), "")


def find_full_key(error: BaseException) -> str | None:
    """The key that OmegaConf writes below the message of an error that is not its own."""
    match = re.search(r"^ *full_key: (\S+)", str(error), re.MULTILINE)
    return match[1] if match else None
