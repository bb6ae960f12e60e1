"""Commands beside training: python -m tuneoff report outputs/compare. Imports no torch."""

import argparse
import sys

from tuneoff.record.console import accept_any_text
from tuneoff.report import cli


def main() -> int:
    """Parse the command line and run the command; returns the exit code."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m tuneoff", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    cli.add_arguments(commands.add_parser("report", help="tables and charts from records"))
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
