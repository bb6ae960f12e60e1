"""The command `report`: reads records, writes one folder, and with --watch does so again whenever a record changes."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import vl_convert

from tuneoff import record
from tuneoff.report import comparability, page, write_tables
from tuneoff.report.charts.costs import Chart, charts
from tuneoff.report.compare import Comparison, compare
from tuneoff.report.files import put
from tuneoff.report.records import PREDICTION, ReportError, read, run_folders

MOST_CHARTED = (
    6  # comparisons that have charts; a report of more is a sign that the guard has much to say
)
WATCH_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `report`."""
    parser.add_argument(
        "folders", nargs="+", type=Path, help="folders with records, such as outputs/compare"
    )
    parser.add_argument(
        "--out", type=Path, help="where to write (default: report/ in the first folder)"
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="the method, or a row's name, to compare with"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse records that cannot stand in one table"
    )
    parser.add_argument(
        "--watch", action="store_true", help="write again whenever a record changes, until Ctrl-C"
    )
    parser.epilog = (
        "Needs no torch. Where it is not installed: pip install --no-deps . && "
        "pip install altair vl-convert-python scipy jinja2"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the report; returns the exit code."""
    try:
        if options.watch:
            watch(options)
        else:
            report(options)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def report(options: argparse.Namespace) -> None:
    """Read, compare and write once.

    Raises:
        ReportError: there is nothing to report, or not as asked.
    """
    started = time.perf_counter()
    runs, skipped = read(options.folders)
    for line in skipped:
        print(line, file=sys.stderr)
    if not runs:
        raise ReportError(f"{', '.join(map(str, options.folders))}: no records here")
    made = compare(runs, options.baseline, options.strict)
    out = options.out or options.folders[0] / "report"
    groups = [each.runs or [row.prediction for row in each.rows if row.prediction] for each in made]
    why = comparability.differences(groups) if len(made) > 1 else {}
    for name, values in why.items():
        print(f"not compared, {name} differs: " + ", ".join(dict.fromkeys(values)), file=sys.stderr)
    write(
        made, why, skipped, out, " ".join(folder.name or str(folder) for folder in options.folders)
    )
    print(
        f"{out}/report.html: {len(runs)} runs, {sum(len(each.rows) for each in made)} rows, "
        f"{time.perf_counter() - started:.1f} s"
    )


def write(
    made: Sequence[Comparison],
    why: dict[str, list[str]],
    skipped: Sequence[str],
    out: Path,
    title: str,
) -> None:
    """Write tables, charts and page into `out`."""
    methods = sorted({row.method for each in made for row in each.rows})
    drawn = {each.name: charts(each, methods) for each in made[:MOST_CHARTED]}
    (out / "charts").mkdir(parents=True, exist_ok=True)
    put(out / "table.md", write_tables.markdown(made, why))
    put(out / "summary.md", write_tables.summary(made))
    put(out / "table.csv", write_tables.comma_separated(made))
    put(out / "table.tex", write_tables.latex(made))
    files = {
        name
        for place, found in drawn.items()
        for chart in found
        for name in draw(chart, out / "charts", f"_{place}" if len(made) > 1 else "")
    }
    for old in (out / "charts").iterdir():  # of an earlier report on other records
        if old.suffix in (".svg", ".pdf", ".png") and old.name not in files:
            old.unlink()
    put(out / "report.html", page.render(made, drawn, why, skipped, f"Report: {title}"))


def draw(chart: Chart, folder: Path, suffix: str) -> list[str]:
    """Write a chart as SVG, PDF and PNG (at 2 pixels a unit); returns the names of the files."""
    svg = vl_convert.vegalite_to_svg(chart.spec, allowed_base_urls=[])
    put(folder / f"{chart.name}{suffix}.svg", svg)
    put(folder / f"{chart.name}{suffix}.pdf", vl_convert.svg_to_pdf(svg))
    put(folder / f"{chart.name}{suffix}.png", vl_convert.svg_to_png(svg, scale=2))
    return [f"{chart.name}{suffix}.{kind}" for kind in ("svg", "pdf", "png")]


# ---------------------------------------------------------------- watching
def watch(options: argparse.Namespace) -> None:
    """Report again after every change of a record, until interrupted.

    A report that cannot be written yet (no record, no run of the baseline) is a line, because the next one may be.
    """
    seen: dict[str, tuple] | None = None
    while True:
        now = state(options.folders)
        if now != seen:
            seen = now
            try:
                if not now:
                    raise ReportError("no records yet")
                report(options)
            except ReportError as error:
                print(f"waiting: {error}", file=sys.stderr)
        time.sleep(WATCH_SECONDS)


def state(folders: Sequence[Path]) -> dict[str, tuple]:
    """Size and time of every record's files, to see that one has changed."""
    found = {}
    for folder in sorted({each for root in folders for each in run_folders(root)}):
        for name in (record.RUN, record.RESULT, record.METRICS, PREDICTION):
            try:
                facts = (folder / name).stat()
            except OSError:
                continue
            found[str(folder / name)] = (facts.st_size, facts.st_mtime_ns)
    return found
