"""The report on others' results: a page in Markdown, a table as CSV, and charts, each with the tests' intervals."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tuneoff.record import write_atomically
from tuneoff.report.charts.outliers import describe_pulled
from tuneoff.report.charts.style import WIDTH, Chart, Point, interval_ends, make_chart
from tuneoff.report.charts.trade_offs import HEIGHT_OF_LABEL, Cost, Size, draw_trade_off
from tuneoff.report.folder import CHARTS, PEFT_LIST, claim_names, remove_others
from tuneoff.report.peft_answer import show_range, show_share, write_peft_answer
from tuneoff.report.peft_judgement import (
    JudgedTable,
    Moves,
    compare_releases,
    find_front,
    judge_results,
    rank_descending,
)
from tuneoff.report.peft_results import PeftResult, keep_comparable, read_peft_results
from tuneoff.report.qualities import Quality
from tuneoff.report.records import ReportError
from tuneoff.report.stats import ALPHA
from tuneoff.report.text import show_line, show_path
from tuneoff.report.write_report import list_chart_files, write_chart
from tuneoff.report.write_tables import escape_markdown

PAGE = "peft.md"
TABLE = "peft.csv"
CHART_FONT = 9  # many names in one chart
CHART_HEIGHT = 420
ACCURACY = Quality("metrics.accuracy", "test accuracy (%)", lower_is_better=False)
COSTS = {
    "memory": ("Peak memory reserved (GiB)", lambda result: result.peak_gib),
    "size": ("Saved size (MiB)", lambda result: result.saved_mib),
    "time": ("Training (s)", lambda result: result.train_seconds),
}
HEADINGS = (
    "Experiment",
    "Accuracy (%)",
    "95 % interval",
    "Rank",
    "Rank by tests",
    "Δ to baseline (points)",
    "Holm p",
    "Trainable",
    "Peak (GiB)",
    "Saved (MiB)",
    "Training (s)",
    "Front",
)
CAPTION = (
    "Intervals are Wilson's, over test examples alone: one seed each. \\*: differs from the baseline at Holm-adjusted "
    "p < 0.05. Bold: the best, and every result that cannot be told from it (Holm over all pairs). Rank by tests: the "
    "places that a result may have, by the pairs that can be told apart. Equal accuracies share the mean of their "
    "ranks. Front: on the Pareto front of accuracy against peak memory (m), saved size (s), training time (t); in "
    "brackets where it is not on the measured front but may be on it, since nothing as cheap is better by a test."
)


def report_peft_results(
    folders: Sequence[Path], baseline: str | None, examples: int | None, folder: Path
) -> list[str]:
    """Judge the result files of one folder, or of two: the newer first; returns a line for each that was left out.

    Args:
        folder: where the table, its page and the charts are written.

    Raises:
        ReportError: there are no results, or they cannot be judged as asked.
        OSError: the report cannot be written.
    """
    if len(folders) > 2:
        raise ReportError(f"--peft takes one folder or two, not {len(folders)}")
    results, lines = read_peft_results(folders[0], examples)
    results, left_out = keep_comparable(results)
    lines += left_out
    table = judge_results(results, baseline)
    moves = None
    if len(folders) == 2:
        older, skipped = read_peft_results(folders[1], examples)
        older, left_out = keep_comparable(older)
        lines += [*skipped, *left_out]
        moves = compare_releases(older, results)
        if moves.differing:
            lines.append(show_line(f"the older results are of {moves.differing}"))
    charts = list(chart_fronts(table))
    names = [PAGE, TABLE]
    for chart in charts:
        names += list_chart_files(chart)
    claim_names(folder, names, PEFT_LIST)
    write_atomically(folder / PAGE, write_page(table, moves))
    write_atomically(folder / TABLE, write_csv(table))
    for chart in charts:
        write_chart(chart, folder / CHARTS)
    remove_others(folder, names, PEFT_LIST)
    print(f"{show_path(folder / PAGE)}: {len(results)} results")
    return lines


def write_page(table: JudgedTable, moves: Moves | None) -> str:
    """Return the page: the answer in sentences, the table with its caption, and what moved between two releases."""
    answer = []
    for place, sentence in enumerate(write_peft_answer(table, moves), 1):
        answer.append(f"{place}. {escape_markdown(sentence)}")
    parts = ["\n".join(answer), "\n".join(_table_lines(table)), CAPTION]
    if moves is not None:
        parts += ["### Moved between the two releases", "\n".join(_move_lines(moves))]
        parts.append(
            f"Among the {len(moves.moves)} experiments that both have ({moves.only_before} only the older, "
            f"{moves.only_after} only the newer); equal accuracies share the mean of their ranks."
        )
    return "\n\n".join(parts) + "\n"


def _table_lines(table: JudgedTable) -> Iterator[str]:
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|:--|" + "--:|" * (len(HEADINGS) - 1)
    fronts = _mark_fronts(table)
    ranges = table.rank_ranges
    ranks = rank_descending(np.array([result.correct for result in table.results]))
    for row, result in enumerate(table.results):
        accuracy = f"{100 * result.accuracy:.1f}"
        first, last = ranges[row]
        cells = [
            escape_markdown(result.name),
            f"**{accuracy}**" if table.ties[row] else accuracy,
            show_range(*table.intervals[row]),
            f"{ranks[row]:g}",
            f"{first}–{last}",
            *_baseline_cells(table, row),
            _show_number(result.trainable, ",.0f"),
            _show_number(result.peak_gib, ".1f"),
            _show_number(result.saved_mib, ",.1f"),
            _show_number(result.train_seconds, ",.0f"),
            fronts[row],
        ]
        yield f"| {' | '.join(cells)} |"


def _baseline_cells(table: JudgedTable, row: int) -> list[str]:
    """The difference to the baseline with its mark, and its p value."""
    if row == table.baseline:
        return ["baseline", "–"]
    change = table.results[row].accuracy - table.results[table.baseline].accuracy
    p_value = float(table.baseline_p[row])
    mark = " \\*" if p_value < ALPHA else ""
    text = f"{100 * change:+.1f}{mark}".replace("-", "−")
    return [text, f"{p_value:.2g}"]


def _mark_fronts(table: JudgedTable) -> list[str]:
    """For each row the letters of the fronts that it is on."""
    marks = [""] * len(table.results)
    for name, (_, cost_of) in COSTS.items():
        front = find_front(table, cost_of)
        for row, result in enumerate(table.results):
            if result in front.measured:
                marks[row] += f" {name[0]}"
            elif result in front.possible:
                marks[row] += f" ({name[0]})"
    return [mark.strip() or "–" for mark in marks]


def _show_number(number: float | None, form: str) -> str:
    return "–" if number is None else f"{number:{form}}"


def _move_lines(moves: Moves) -> Iterator[str]:
    """What moved, the farthest first."""
    yield "| Experiment | Accuracy before | after | Change (points) | Rank before | after | Holm p |"
    yield "|:--|--:|--:|--:|--:|--:|--:|"
    by_name = sorted(moves.moves, key=lambda move: move.name)
    for move in sorted(by_name, key=lambda move: -abs(move.rank_change)):
        cells = [
            escape_markdown(move.name),
            show_share(move.before.accuracy),
            show_share(move.after.accuracy),
            f"{100 * move.accuracy_change:+.1f}".replace("-", "−"),
            f"{move.rank_before:g}",
            f"{move.rank_after:g}",
            f"{move.p:.2g}",
        ]
        yield f"| {' | '.join(cells)} |"


def write_csv(table: JudgedTable) -> str:
    """Return the table as plain figures, a line a result."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "correct examples accuracy low high first_rank last_rank tied baseline_p baseline_raw_p"
    costs = "trainable peak_gib saved_mib train_seconds forgetting"
    writer.writerow(["experiment", *names.split(), *costs.split()])
    for row, result in enumerate(table.results):
        figures = [
            result.correct,
            result.examples,
            result.accuracy,
            *table.intervals[row],
            *table.rank_ranges[row],
            int(table.ties[row]),
            _csv_p_value(table.baseline_p[row]),
            _csv_p_value(table.raw_baseline_p[row]),
            *(getattr(result, name) for name in costs.split()),
        ]
        writer.writerow([result.name.lstrip("=+-@"), *figures])
    return text.getvalue()


def _csv_p_value(p_value: float) -> float | str:
    """Nothing for the baseline, which has no test."""
    return "" if np.isnan(p_value) else p_value


# ---------------------------------------------------------------- charts
def chart_fronts(table: JudgedTable) -> Iterator[Chart]:
    """Yield the chart of accuracy, with its interval, against each cost."""
    for name, (title, cost_of) in COSTS.items():
        points = []
        for row, result in enumerate(table.results):
            cost = cost_of(result)
            if cost is not None:
                points.append(_make_point(table, row, cost))
        if len(points) < 2:
            continue
        size = Size(WIDTH * 2, max(CHART_HEIGHT, HEIGHT_OF_LABEL * len(points)), CHART_FONT)
        figure = draw_trade_off(points, ACCURACY, Cost(name, title, _no_row, True), size)
        beyond = describe_pulled(points, ACCURACY.lower_is_better)
        heading = (
            f"Test accuracy against {name}, 95 % intervals over examples; dashed: the Pareto front "
            f"as measured{beyond}"
        )
        yield make_chart(f"accuracy_{name}", heading, figure)


def _no_row(row: object) -> None:
    """The points are made already."""


def _make_point(table: JudgedTable, row: int, cost: float) -> Point:
    result = table.results[row]
    low, high = table.intervals[row]
    return {
        "method": result.name,
        "family": _find_family(result),
        "label": result.name,
        "name": result.name,
        "x": cost,
        "y": 100 * result.accuracy,
        "seeds": 1,
        "y_low": 100 * low,
        "y_high": 100 * high,
        **interval_ends("x", cost, None),
    }


def _find_family(result: PeftResult) -> str:
    return "full" if result.is_full else "other"
