"""Composition errors: a sentence for each thing that Hydra has against the options of a command."""

import re
from collections.abc import Callable

from tuneoff.cli.allowed_values import find_field, written_override


def explain_swept(override: str, arguments: list[str]) -> str:
    """Several values in a single run: perhaps a list was meant."""
    key, _, value = override.partition("=")
    item = find_field(key)
    if item is not None and item.metadata.get("names"):
        return f"{override}: a list is written {key}=[{value}]; a bare comma sweeps, with -m"
    return f"{override}: must be one value; several are a sweep, with -m"


def explain_swept_hydra(override: str, arguments: list[str]) -> str:
    """Values with a comma for a key of Hydra's own, such as the rates that a tuning tries."""
    key, _, values = override.partition("=")
    return f"{override}: cannot be swept; a list for the sweeper is one text: \"{key}='{values}'\""


def explain_two_methods(schema: str, arguments: list[str]) -> str:
    """Two methods in one run."""
    written = "method"
    for text in arguments:
        if text.lstrip("+").partition("=")[0] in ("method", "schema"):
            written = text
    return f"{written}: must be one method, since each has its own options"


def explain_plus(key: str, arguments: list[str]) -> str:
    """A `+` before a key that is there."""
    written = written_override(key, arguments)
    return f"+{written}: must be written {written}"


def explain_no_such_option(key: str, arguments: list[str]) -> str:
    """A key that is not there."""
    return f"{written_override(key, arguments)}: no such option"


# What Hydra says, with the part that matters as a group, and the line that we make of it.
COMPOSITION_ERRORS: dict[str, Callable[[str, list[str]], str]] = {
    r"Ambiguous value for argument '(.*)'": explain_swept,
    r"Sweep parameters '(.*)' requires --multirun": explain_swept,
    r"Sweeping over Hydra's configuration is not supported : '(.*)'": explain_swept_hydra,
    r"In 'schema/(.*)': ValidationError": explain_two_methods,
    r"Multiple values for (method)": explain_two_methods,
    r"Could not delete(?: from config\.)? '(.*)'(?: does not exist|\. No match)": (
        lambda key, _: f"~{key}: no such option"
    ),
    r"Could not delete from config\. The value of '(.*)' is": (
        lambda key, _: f"~{key}: cannot be removed"
    ),
    r"force-add of config groups is not supported: '\+\+(.*)'": (
        lambda override, _: f"++{override}: must be written {override}"
    ),
    r"An item is already at '(.*)'": explain_plus,
    r"Override (.*) looks like a config group override": (
        lambda override, _: f"{override}: no such option"
    ),
    r"Could not override '(.*)'. No match": explain_no_such_option,
}


def explain_composition_error(message: str, arguments: list[str]) -> str | None:
    """The line for what Hydra says of a composition, or None where an error further in says it better."""
    for pattern, explain in COMPOSITION_ERRORS.items():
        match = re.search(pattern, message)
        if match:
            return explain(match[1], arguments)
    return None
