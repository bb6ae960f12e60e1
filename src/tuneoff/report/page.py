"""Writes report.html: one file that opens offline and lets no text of a record become markup."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert

from tuneoff.record import flatten, replace_non_finite
from tuneoff.report.caption import caption
from tuneoff.report.charts.costs import Chart
from tuneoff.report.compare import Comparison
from tuneoff.report.files import kept
from tuneoff.report.records import Run
from tuneoff.report.rows import Row
from tuneoff.report.table import MISSING, columns

RUN_COLUMNS = (
    "Run",
    "Method",
    "Seed",
    "Status",
    "Validation loss",
    "Test loss",
    "Training (s)",
    "Error",
)


def render(
    comparisons: Sequence[Comparison],
    charts: dict[str, list[Chart]],
    why: dict[str, list[str]],
    skipped: Sequence[str],
    title: str,
) -> str:
    """The page. `charts` are by comparison; one that has none there is shown as a table alone."""
    runs = [run for made in comparisons for row in made.rows for run in _runs(row)]
    places = {id(run): index for index, run in enumerate(runs)}
    settings: dict[str, int] = {}
    content = {
        "comparisons": [
            _comparison(made, charts.get(made.name), places, settings) for made in comparisons
        ],
        "run_columns": [
            {"title": name, "numeric": name in RUN_COLUMNS[4:7]} for name in RUN_COLUMNS
        ],
        "runs": [_run(run, settings) for run in runs],
    }
    content["settings"] = [json.loads(setting) for setting in settings]
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_file("page.html"))
    shown = {
        name: "; ".join(
            f"{value} ({made.name})" for value, made in zip(values, comparisons, strict=True)
        )
        for name, values in why.items()
    }
    return template.render(
        title=title,
        summary=_summary(runs),
        why=shown,
        skipped=skipped,
        data=embed(content),
        style=_file("page.css"),
        script=_file("page.js"),
        vega=_vega(),
    )


def embed(content: Any) -> str:
    """JSON that can stand in a script element: `</script>` or `<!--` in a text would end or change it."""
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except (
        ValueError
    ):  # a NaN, which is seldom: looking for one everywhere takes longer than all else here
        text = json.dumps(replace_non_finite(content), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _file(name: str) -> str:
    return files("tuneoff.report").joinpath(name).read_text("utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed, as vl-convert ships them; it takes a second to bundle them."""
    make = vl_convert.javascript_bundle
    return kept(f"vega-{version('vl-convert-python')}.js", make).replace("</script", "<\\/script")


def _summary(runs: Sequence[Run]) -> str:
    counts = Counter(run.status.replace("_", " ") for run in runs)
    return (
        f"{len(runs)} runs: "
        + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        + "."
    )


def _runs(row: Row) -> list[Run]:
    return [*row.runs, *([row.prediction] if row.prediction else [])]


def _comparison(
    made: Comparison, charts: list[Chart] | None, places: dict[int, int], settings: dict[str, int]
) -> dict:
    found = columns(made)
    rows = [
        {
            "name": row.name,
            "setting": _place(row.setting, settings),
            "runs": [places[id(run)] for run in _runs(row)],
            "cells": [
                {
                    "text": column.cells[index].text,
                    "value": column.cells[index].value,
                    "bold": column.cells[index].bold,
                }
                for column in found
            ],
        }
        for index, row in enumerate(made.rows)
    ]
    return {
        "name": made.name,
        "caption": caption(made),
        "rows": rows,
        "provenance": _provenance(made),
        "columns": [{"title": column.title, "numeric": column.numeric} for column in found],
        "charts": [
            {"name": chart.name, "title": chart.title, "spec": chart.spec} for chart in charts or []
        ],
        "without_charts": "Only the largest comparisons have charts." if charts is None else "",
    }


def _place(setting: dict, settings: dict[str, int]) -> int:
    """A setting's number: runs that differ in their seed alone share one."""
    return settings.setdefault(json.dumps(setting, sort_keys=True, default=str), len(settings))


def _provenance(made: Comparison) -> list[list[str]]:
    """Each entry of the provenance with its value, or its values and how many runs have each."""
    counts: dict[str, Counter] = {}
    for run in made.runs:
        for key, value in flatten(run.table("provenance")).items():
            if key != "batch_order_hash":  # one a seed, by design
                counts.setdefault(key, Counter())[str(value)] += 1
    return [
        [
            key.replace("/", ", ").replace("_", " "),
            next(iter(seen))
            if len(seen) == 1
            else "; ".join(f"{value} ({count} runs)" for value, count in sorted(seen.items())),
        ]
        for key, seen in counts.items()
    ]


def _run(run: Run, settings: dict[str, int]) -> dict:
    error = run.table("error")
    command = run.get("command")
    first = str(error.get("message") or "").strip().splitlines()
    values = [
        run.folder,
        run.method,
        run.seed,
        run.status.replace("_", " "),
        run.number("loss.final"),
        run.number("loss.test"),
        run.number("throughput.train_seconds"),
        (first[0] if first else "")[:120],
    ]
    return {
        "setting": _place(run.setting, settings),
        "seed": run.seed,
        "status": run.status,
        "cells": [{"text": _shown(value), "value": value, "bold": False} for value in values],
        "command": " ".join(map(str, command))
        if isinstance(command, list)
        else str(command or MISSING),
        "error": str(error.get("traceback") or error.get("message") or ""),
        "facts": _facts(run),
    }


def _shown(value: object) -> str:
    if value is None or value == "":
        return MISSING
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _facts(run: Run) -> list[list[str]]:
    keys = (
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
    flat = flatten({key: run.get(key) for key in keys if run.get(key) not in (None, {})})
    flat = {
        key: value for key, value in flat.items() if not key.endswith("/scores")
    }  # a digit an example
    place = [["folder", run.folder]]
    return place + [
        [key.replace("/", ", ").replace("_", " "), str(value)] for key, value in flat.items()
    ]
