"""Commands beside training: python -m tuneoff report outputs/compare, python -m tuneoff chat outputs/lora/RUN."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from tuneoff.record.console import prepare_console

# Each with its module, which is imported only where it is asked for: a report needs no omegaconf.
COMMANDS = {
    "report": ("tuneoff.report.cli", "tables and charts from records"),
    "power": ("tuneoff.report.power_cli", "how many seeds would tell a difference apart"),
    "methods": ("tuneoff.cli.methods", "every choice of method=, by family"),
    "import": ("tuneoff.cli.llamafactory.command", "a YAML of LLaMA-Factory as a command of ours"),
    "chat": ("tuneoff.cli.chat", "put prompts to one saved model, or to two side by side"),
}


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one line, as `train.py` does, without all the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        """Print the message and end with exit code 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def main() -> int:
    """Parse the command line and run the command; returns the exit code."""
    prepare_console()
    parser = OneLineParser(prog="python -m tuneoff", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    asked = sys.argv[1:2]
    for name, (module, sentence) in COMMANDS.items():
        command = commands.add_parser(name, help=sentence)
        if asked == [name]:
            add_arguments: Callable = import_module(module).add_arguments
            add_arguments(command)
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
