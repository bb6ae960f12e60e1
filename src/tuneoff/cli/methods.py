"""Methods: every choice of `method` in a table, by family, made of the YAMLs and of what each method says of itself."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tuneoff import methods  # noqa: F401 (methods register their options)
from tuneoff.cli.described_options import Choice, describe_choice, list_choices, load_stored
from tuneoff.config import schemas
from tuneoff.config.descriptions import describe_class
from tuneoff.methods import _left_out, _peft_options

HEAD = """\
# Methods

Made by `python -m tuneoff methods > conf/method/METHODS.md` from the YAMLs in `conf/method`. What each option means,
and what it may be, is in [OPTIONS.md](../OPTIONS.md), or behind `python train.py --help method=NAME`. A method marked
\\* changes the model's output before the first step, so its initial loss is not the base model's.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command `methods`."""
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="the folder of the YAMLs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table; returns the exit code."""
    if not (options.conf / "method").is_dir():
        print(f"error: --conf={options.conf}: holds no folder `method`", file=sys.stderr)
        return 2
    print(write_methods(options.conf), end="")
    return 0


def write_methods(folder: Path) -> str:
    """Return a table of methods for each family, as Markdown."""
    by_family: dict[str, list[Choice]] = {}
    for choice in list_choices("method", [folder]).values():
        by_family.setdefault(str(choice.schema), []).append(choice)
    parts = [HEAD]
    for family, choices in sorted(by_family.items()):
        schema = schemas().get(family)
        sentence = describe_class(schema.options) if schema else ""
        parts += [f"## {family}", "", sentence, ""]
        parts += ["| method | | options | saves |", "|---|---|---|---|"]
        for choice in choices:
            parts.append(_write_row(choice))
        parts.append("")
    parts += ["## Not here", "", "What else PEFT has, and why it is left out:", ""]
    parts += _list_reasons(_peft_options.LEFT_OUT)
    parts += ["", "What other packages have, and why it is left out:", ""]
    parts += _list_reasons(_left_out.LEFT_OUT)
    return "\n".join(parts) + "\n"


def _list_reasons(reasons: dict[str, str]) -> list[str]:
    return [f"- `{name}` {reason}" for name, reason in reasons.items()]


def _write_row(choice: Choice) -> str:
    method = make_method(choice)
    name = f"`{choice.name}`"
    saves = ""
    if method is not None:
        name += "" if method.starts_at_base else " \\*"
        saves = method.saves
    options = []
    for option in describe_choice("method", choice).options:
        if option.key != "peft.type" and option.default:
            options.append(f"`{option.key}={option.default}`")
    return f"| {name} | {choice.sentence} | {' '.join(options)} | {saves} |"


def make_method(choice: Choice) -> Any:
    """Return the method of a choice, with the tuner of its YAML; None where its schema is not registered."""
    schema = schemas().get(str(choice.schema))
    if schema is None:
        return None
    stored = load_stored(choice.stored)
    return schema.options(**{key: options() for key, options in stored.items()})
