"""Turns what Hydra, OmegaConf and we raise for bad input into one line: the key, the value, what is allowed."""
import re
from collections.abc import Iterator

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tuneoff.config import ConfigError
from tuneoff.record import Busy


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain(error: BaseException, arguments: list[str]) -> str | None:
    """One line for an error that the user can mend, or None for one that is ours.

    Args:
        arguments: the command line, to name the key and value that Hydra's message leaves out.
    """
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, ConfigError | Busy):
            return str(cause)
    if not isinstance(chain[-1], HydraException | OmegaConfBaseException):
        return None  # a fault of ours, however Hydra has wrapped it
    return _foreign(chain, arguments)


def _foreign(chain: list[BaseException], arguments: list[str]) -> str:
    text = "\n".join(str(cause) for cause in chain)
    for pattern, say in RULES:
        match = re.search(pattern, text)
        if match:
            return say(match, arguments)
    first = next(line for line in str(chain[-1]).splitlines() if line.strip())
    return first.strip()


def _given(key: str, arguments: list[str]) -> str:
    """`key=value` as the user wrote it, or the key alone."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.lstrip("+~") == key:
            return f"{key}={value}" if value else key
    return key


def _ambiguous(match: re.Match, arguments: list[str]) -> str:
    key, _, value = match[1].partition("=")
    return f"{key}={value}: a list is written {key}=[{value}] (with -m, a bare comma sweeps)"


def _no_such_choice(match: re.Match, arguments: list[str]) -> str:
    group, name = match[1].split("/")[-2:] if "/" in match[1] else ("config", match[1])
    options = [line.strip() for line in match[3].splitlines() if line.strip()] if match[3] else []
    return f"{group}={name}: must be one of {', '.join(options)}" if options else f"{group}={name}: no such config"


def _unknown_key(match: re.Match, arguments: list[str]) -> str:
    from difflib import get_close_matches
    key = match[1]
    method = next((a.partition("=")[2] for a in arguments if a.startswith("method=")), None)
    parent = key.rpartition(".")[0]
    return (f"{_given(key, arguments)}: no such option" + (f" for method={method}" if method and not parent else "")
            + (f" in {parent}" if parent else ""))


def _wrong_type(match: re.Match, arguments: list[str]) -> str:
    message = match[1].strip().rstrip(".")
    return message


RULES = [
    (r"Ambiguous value for argument '([^']*)'", _ambiguous),
    (r"Could not find '([^']+)'(\n+Available options in '[^']+':\n((?:\t.*\n?)+))?", _no_such_choice),
    (r"Could not override '([^']+)'", _unknown_key),
]
