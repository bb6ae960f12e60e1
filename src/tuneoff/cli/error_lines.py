"""Error lines: what Hydra, OmegaConf and we raise for bad input as one line with the key, the value, what is allowed.

Their own messages take several lines, leave out what is allowed, and advise a `+` that `bind` refuses.
"""

import re
from collections.abc import Iterator
from traceback import walk_tb

from hydra.errors import HydraException
from omegaconf import Node, OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from tuneoff.cli.error_texts import first_line
from tuneoff.cli.known_errors import explain_known_error, explain_logging_error
from tuneoff.config import ConfigError, format_value, shorten
from tuneoff.distributed.launch import LauncherError
from tuneoff.record import Busy

# The last of these packages on the way to an error says whose fault it is.
RESPONSIBLE = ("hydra", "tuneoff", "__main__")
# Of a line; a longer one was typed, and loses its middle.
LONGEST_LINE = 1500


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_error(error: BaseException, arguments: list[str]) -> str | None:
    """One printable line for an error that the user can mend, or None for one that is ours.

    Args:
        arguments: the command line, to name the value that Hydra's message leaves out.
    """
    line = find_line(error, arguments)
    return None if line is None else shorten(line, LONGEST_LINE)


def find_line(error: BaseException, arguments: list[str]) -> str | None:
    """What to say of an error, however long; None for one that is ours."""
    chain = list(error_chain(error))
    for cause in chain:
        if isinstance(cause, ConfigError | Busy | LauncherError):
            return str(cause)
    if not is_from_input(chain):
        return None
    # In a sweep the point's own value, not the whole list of the command line.
    wrong = find_merged_overrides(chain) or find_words_of_files(chain)
    arguments = [*wrong, *arguments, *find_refused_overrides(chain)]
    line = explain_logging_error(chain, arguments)
    if line:
        return line
    for cause in chain:
        line = explain_known_error(cause, arguments)
        if line:
            return line
    for cause in reversed(chain):
        line = first_line(cause)
        if line:
            return line
    return type(error).__name__


def find_merged_overrides(chain: list[BaseException]) -> list[str]:
    """The overrides that Hydra says it could not merge."""
    matches = [re.match(r"Error merging override (.*)", str(cause)) for cause in chain]
    return [match[1] for match in matches if match]


def find_words_of_files(chain: list[BaseException]) -> list[str]:
    """The wrong values of YAMLs as words of a command line, on which the same key may stand with a right one.

    Args:
        chain: of an error that no override brought.
    """
    words = []
    for cause in chain:
        # The word that is wrong says ${…}, and not what that comes to.
        is_resolved = isinstance(cause, InterpolationResolutionError)
        if is_resolved or not isinstance(cause, ValidationError) or not cause.full_key:
            continue
        value = cause.value
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=False)
        elif isinstance(value, Node):
            value = value._value()
        words.append(f"{cause.full_key}={format_value(value)}")
    return words


def find_refused_overrides(chain: list[BaseException]) -> list[str]:
    """The overrides that Hydra advises to add: of a sweep's file, and so not among the words of the command line."""
    matches = [re.search(r"To append to your config use \+(.*)", str(cause)) for cause in chain]
    return [match[1] for match in matches if match]


def is_from_input(chain: list[BaseException]) -> bool:
    """Whether Hydra or OmegaConf found fault with the input, rather than failed within a call that is ours."""
    for cause in reversed(chain):
        # A key that is not there may also be one that we read by a wrong name.
        is_lookup = isinstance(cause, AttributeError | LookupError)
        if isinstance(cause, HydraException | OmegaConfBaseException) and not is_lookup:
            return True
        responsible = [name for name in list_packages(cause) if name in RESPONSIBLE]
        if responsible:
            return responsible[-1] == "hydra"
    return False


def list_packages(error: BaseException) -> list[str]:
    """The packages whose functions the error came through, the outermost first."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return [module.partition(".")[0] for module in modules]
