"""The command `report`: reads records, writes one folder, and with --watch does so again when a record changes."""

import argparse
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tuneoff import record
from tuneoff.record import mask_secrets
from tuneoff.report.comparability import Differences, find_differences
from tuneoff.report.compare import make_comparisons
from tuneoff.report.presentation import Presentation, parse_names, split_words
from tuneoff.report.reading import RECORD_FILES, find_run_folders, read_records
from tuneoff.report.records import ReportError
from tuneoff.report.text import show_line, show_path
from tuneoff.report.wandb_report import MODES, check_wandb, upload_report
from tuneoff.report.write_report import write_report

WATCH_SECONDS = 2.0
NOT_WITH_PEFT = ("strict", "columns", "order", "names", "watch", "wandb")
WATCHED_FILES = sorted(RECORD_FILES | {record.METRICS})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `report`."""
    parser.add_argument(
        "folders", nargs="+", type=Path, help="folders with records, such as outputs/compare"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write (default: report/ in the first folder; with --peft: peft_judged/)",
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="the method, or a row's name, to compare with"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse records that cannot stand in one table"
    )
    parser.add_argument(
        "--columns", metavar="KEY,…", help="columns of the summary, by their names in table.csv"
    )
    parser.add_argument(
        "--order", metavar="METHOD,…", help="methods (or rows) first in this order; or one column"
    )
    parser.add_argument(
        "--names",
        metavar="METHOD=NAME",
        nargs="+",
        default=[],
        help='what tables and charts call a method: --names lora="LoRA (r=8)"',
    )
    parser.add_argument(
        "--wandb",
        nargs="?",
        const="offline",
        choices=MODES,
        help="also log the report's folder to W&B as an artifact: offline (for wandb sync), or online",
    )
    parser.add_argument(
        "--watch", action="store_true", help="write again whenever a record changes, until Ctrl-C"
    )
    _add_peft_arguments(parser)
    parser.epilog = (
        "Needs no torch. Where it is not installed: pip install --no-deps . && "
        "pip install altair vl-convert-python scipy jinja2"
    )
    parser.set_defaults(run=run)


def _add_peft_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the results of others."""
    parser.add_argument(
        "--peft",
        action="store_true",
        help="FOLDER holds result files of PEFT's method_comparison; a second one, those of an older release",
    )
    parser.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help="with --peft: of how many test examples each accuracy is (default: by the data set)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the report; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know ASCII alone
    try:
        if options.watch and options.wandb:
            raise ReportError("--wandb is for a report that is written once, not with --watch")
        default = Path("peft_judged") if options.peft else options.folders[0] / "report"
        options.out = options.out or default
        check_out(options.out)
        if options.peft:
            report_others(options)
        elif options.watch:
            watch_records(options)
        else:
            report_once(options)
        sys.stdout.flush()
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        path = error.filename or "output"
        print(f"error: {show_line(str(path))}: {error.strerror or error}", file=sys.stderr)
        # What is left of our output cannot be written either; Python would say so once more when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def check_out(folder: Path) -> None:
    """Refuse a place for the report where no folder can be, before any record is read.

    Raises:
        ReportError: saying why.
    """
    reason = record.describe_unusable(folder)
    if reason is not None:
        path = show_path(folder)
        raise ReportError(
            f"--out {path}: must be a folder that can be made and written: {show_line(reason)}"
        )


def report_once(options: argparse.Namespace) -> None:
    """Read, compare and write once.

    Raises:
        ReportError: there is nothing to report, or not as asked.
        OSError: the report cannot be written.
    """
    if options.examples is not None:
        raise ReportError("--examples is for --peft")
    if options.wandb:
        check_wandb()
    started = time.perf_counter()
    runs, skipped = read_records(options.folders)
    for line in skipped:
        print(line, file=sys.stderr)
    if not runs:
        listing = ", ".join(map(show_path, options.folders))
        raise ReportError(f"{listing}: no records here")
    comparisons = make_comparisons(runs, options.baseline, options.strict)
    known = {name for comparison in comparisons for name in comparison.row_names}
    presentation = Presentation(
        split_words(options.columns),
        split_words(options.order, known),
        parse_names(options.names, known),
    )
    presentation.apply(comparisons)
    differing: Differences = {}
    if len(comparisons) > 1:
        differing = find_differences([comparison.guarded_runs for comparison in comparisons])
    for name, values in differing.items():
        listing = ", ".join(dict.fromkeys(values))
        print(show_line(f"not compared, {name} differs: {listing}"), file=sys.stderr)
    folder = options.out
    names = [path.name or str(path) for path in options.folders]
    title = show_line(mask_secrets(" ".join(names)))
    for line in write_report(comparisons, differing, skipped, folder, title, presentation):
        print(line, file=sys.stderr)
    rows = sum(len(comparison.rows) for comparison in comparisons)
    seconds = time.perf_counter() - started
    print(f"{show_path(folder)}/report.html: {len(runs)} runs, {rows} rows, {seconds:.1f} s")
    if options.wandb:
        print(upload_report(folder, runs, options.wandb))


def report_others(options: argparse.Namespace) -> None:
    """Judge the result files of PEFT's method comparison.

    Raises:
        ReportError: there are none, or they cannot be judged as asked.
        OSError: the report cannot be written.
    """
    from tuneoff.report.peft_report import report_peft_results

    for name in NOT_WITH_PEFT:
        if getattr(options, name):
            raise ReportError(f"--{name} is for records of our own, not with --peft")
    if options.examples is not None and options.examples < 1:
        raise ReportError(f"--examples {options.examples}: must be at least 1")
    folders = options.folders
    for line in report_peft_results(folders, options.baseline, options.examples, options.out):
        print(line, file=sys.stderr)


# ---------------------------------------------------------------- watching
def watch_records(options: argparse.Namespace) -> None:
    """Report again after every change of a record, until interrupted.

    A report that cannot be written yet (no record, no run of the baseline) is a line, because the next one may be.
    """
    reported: dict[str, tuple[int, int]] | None = None
    while True:
        state = read_state(options.folders)
        if state != reported:
            reported = state
            try:
                if not state:
                    raise ReportError("no records yet")
                report_once(options)
            except ReportError as error:
                print(f"waiting: {error}", file=sys.stderr)
        time.sleep(WATCH_SECONDS)


def read_state(folders: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """Return size and time of every record's files, to see that one has changed."""
    state = {}
    for folder in find_run_folders(folders, skipped=[]):
        for name in WATCHED_FILES:
            path = folder / name
            try:
                status = path.stat()
            except OSError:
                continue
            state[str(path)] = (status.st_size, status.st_mtime_ns)
    return state
