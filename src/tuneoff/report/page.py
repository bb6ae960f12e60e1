"""The page report.html: one file that opens offline and lets no text of a record become markup."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2

from tuneoff.record import flatten, replace_non_finite
from tuneoff.report.answer import write_answer
from tuneoff.report.caption import write_caption
from tuneoff.report.cells import MISSING
from tuneoff.report.charts import WIDE, Chart
from tuneoff.report.comparability import Differences
from tuneoff.report.compare import Comparison
from tuneoff.report.presentation import Presentation
from tuneoff.report.records import Run
from tuneoff.report.table import Column, make_columns
from tuneoff.report.text import clean_text
from tuneoff.report.vega import load_vega

# Heading, and whether its cells are figures.
RUN_COLUMNS = {
    "Run": False,
    "Method": False,
    "Seed": False,
    "Status": False,
    "Validation loss": True,
    "Test loss": True,
    "Training (s)": True,
    "Error": False,
}
MOST_ERROR_CHARACTERS = 120  # in the table of runs; a run's own view has all
# What a run's view lists below "Measured".
FACTS = (
    "identity",
    "sweep",
    "started_at",
    "finished_at",
    "parameters",
    "loss",
    "metrics",
    "metric_facts",
    "throughput",
    "memory",
    "facts",
    "peak_gib",
    "breakdown_gib",
)
BATCH_ORDER = "batch_order_hash"  # differs between seeds by design
MOST_MAIN = 8  # columns that are shown at once
WITHOUT_CHARTS = "Only the largest comparisons have charts."


class Settings:
    """The settings of all runs, each once: runs that differ in their seed alone share one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, setting: dict) -> int:
        """Return the number of a setting."""
        text = json.dumps(setting, sort_keys=True, default=str)
        return self._numbers.setdefault(text, len(self._numbers))

    def listed(self) -> list[dict]:
        """Return the settings by their numbers."""
        return [json.loads(text) for text in self._numbers]


def render_page(
    comparisons: Sequence[Comparison],
    charts: dict[str, list[Chart]],
    differing: Differences,
    skipped: Sequence[str],
    title: str,
    presentation: Presentation | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        comparisons: the tables, the largest first.
        charts: by comparison; one that has none there is shown as a table alone.
        differing: the fields that keep the comparisons apart, with the value of each.
        skipped: a line for each file that was not read.
        title: the page's heading.
        presentation: the columns that are shown at once; the others are behind a button.
    """
    runs = _list_runs(comparisons)
    run_numbers = {id(run): number for number, run in enumerate(runs)}
    settings = Settings()
    presentation = presentation or Presentation()
    sections = []
    for comparison in comparisons:
        drawn = charts.get(comparison.name)
        section = _describe_comparison(comparison, drawn, run_numbers, settings, presentation)
        sections.append(section)
    content = {
        "comparisons": sections,
        "run_columns": [{"title": key, "numeric": value} for key, value in RUN_COLUMNS.items()],
        "runs": [_describe_run(run, settings) for run in runs],
        "settings": settings.listed(),
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(_read_file("page.html"))
    return template.render(
        title=title,
        summary=_count_statuses(runs),
        differing=_list_differences(comparisons, differing),
        skipped=skipped,
        data=embed_json(content),
        style=_read_file("page.css"),
        script=_read_file("page.js"),
        vega=load_vega().replace("</script", "<\\/script"),
    )


def _list_runs(comparisons: Sequence[Comparison]) -> list[Run]:
    """The runs of all tables, in their order."""
    runs: list[Run] = []
    for comparison in comparisons:
        for row in comparison.rows:
            runs += row.all_runs
    return runs


def embed_json(content: Any) -> str:
    """Return JSON that can stand in a script element: `</script>` or `<!--` in a text would end or change it."""
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except ValueError:
        # A NaN, which is seldom: looking for one everywhere takes longer than all else here.
        text = json.dumps(replace_non_finite(content), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _read_file(name: str) -> str:
    return files("tuneoff.report").joinpath(name).read_text("utf-8")


def _count_statuses(runs: Sequence[Run]) -> str:
    counts = Counter(run.status.replace("_", " ") for run in runs)
    words = [f"{counts[status]} {status}" for status in sorted(counts)]
    listing = ", ".join(words)
    return f"{len(runs)} runs: {listing}."


def _list_differences(comparisons: Sequence[Comparison], differing: Differences) -> dict[str, str]:
    """Each field that differs, with its values and the comparisons that have them."""
    listed = {}
    for name, values in differing.items():
        texts = []
        for value, comparison in zip(values, comparisons, strict=True):
            texts.append(f"{value} ({comparison.name})")
        listed[name] = "; ".join(texts)
    return listed


def _name_entry(key: str) -> str:
    """The key of a flat record as a reader sees it: `versions/torch` is `versions, torch`."""
    return key.replace("/", ", ").replace("_", " ")


# ---------------------------------------------------------------- comparisons
def _describe_comparison(
    comparison: Comparison,
    charts: list[Chart] | None,
    run_numbers: dict[int, int],
    settings: Settings,
    presentation: Presentation,
) -> dict:
    """What page.js makes a section of: answer, charts, table, provenance. `run_numbers` are by the runs' ids."""
    columns = make_columns(comparison)
    main = {column.key for column in presentation.choose_columns(comparison)[:MOST_MAIN]}
    rows = []
    for index, row in enumerate(comparison.rows):
        cells = [column.cells[index] for column in columns]
        described = {
            "name": row.name,
            "setting": settings.number(row.setting),
            "runs": [run_numbers[id(run)] for run in row.all_runs],
            "cells": [_describe_cell(cell.text, cell.value, cell.bold) for cell in cells],
        }
        rows.append(described)
    return {
        "name": comparison.name,
        "answer": write_answer(comparison),
        "caption": write_caption(comparison),
        "rows": rows,
        "provenance": _list_provenance(comparison),
        "columns": [_describe_column(column, main) for column in columns],
        "charts": [_describe_chart(chart) for chart in _leave_out_narrow(charts or [])],
        "without_charts": WITHOUT_CHARTS if charts is None else "",
    }


def _describe_cell(text: str, value: float | str | None, bold: bool = False) -> dict:
    return {"text": text, "value": value, "bold": bold}


def _describe_column(column: Column, main: set[str]) -> dict:
    return {"title": column.title, "numeric": column.numeric, "main": column.key in main}


def _leave_out_narrow(charts: Sequence[Chart]) -> list[Chart]:
    """The charts without the one that stands wide at the head of the page."""
    narrow = WIDE.removesuffix("_wide")
    is_wide = any(chart.name == WIDE for chart in charts)
    return [chart for chart in charts if not (is_wide and chart.name == narrow)]


def _describe_chart(chart: Chart) -> dict:
    return {
        "name": chart.name,
        "title": chart.title,
        "spec": chart.spec,
        "wide": chart.name == WIDE,
    }


def _list_provenance(comparison: Comparison) -> list[list[str]]:
    """Each entry of the provenance with its value, or its values and how many runs have each."""
    counts: dict[str, Counter] = {}
    for run in comparison.runs:
        for key, value in flatten(run.section("provenance")).items():
            if key != BATCH_ORDER:
                counts.setdefault(key, Counter())[str(value)] += 1
    return [[_name_entry(key), _list_values(values)] for key, values in counts.items()]


def _list_values(counts: Counter) -> str:
    """The value that all runs share, or each value with the number of runs that have it."""
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({counts[value]} runs)" for value in sorted(counts))


# ---------------------------------------------------------------- runs
def _describe_run(run: Run, settings: Settings) -> dict:
    """A line of the table of runs, and what opens behind it."""
    error = run.section("error")
    message = str(error.get("message") or "").strip()
    first_line = message.partition("\n")[0]
    values: list[float | str | None] = [
        run.folder,
        run.method,
        run.seed,
        run.status.replace("_", " "),
        run.number("loss.final"),
        run.number("loss.test"),
        run.number("throughput.train_seconds"),
        first_line[:MOST_ERROR_CHARACTERS],
    ]
    return {
        "setting": settings.number(run.setting),
        "seed": run.seed,
        "status": run.status,
        "cells": [_describe_cell(_format_value(value), value) for value in values],
        "command": _format_command(run.get("command")),
        "error": str(error.get("traceback") or error.get("message") or ""),
        "facts": _list_facts(run),
    }


def _format_value(value: object) -> str:
    if value is None or value == "":
        return MISSING
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _format_command(command: Any) -> str:
    if isinstance(command, list):
        return clean_text(" ".join(map(str, command)))
    return str(command or MISSING)


def _list_facts(run: Run) -> list[list[str]]:
    """What was measured, as pairs of a name and a text."""
    measured = {}
    for key in FACTS:
        value = run.get(key)
        if value is not None and value != {}:
            measured[key] = value
    facts = [["folder", run.folder]]
    for key, value in flatten(measured).items():
        if not key.endswith("/scores"):  # a digit an example
            facts.append([_name_entry(key), str(value)])
    return facts
