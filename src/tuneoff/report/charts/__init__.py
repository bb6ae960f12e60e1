"""Charts of a comparison, each one Vega-Lite specification: the paper's figure and the page's are the same."""

from collections import Counter
from dataclasses import replace

from tuneoff.report.charts.ablations import chart_ablations
from tuneoff.report.charts.learning_curves import chart_learning_curves
from tuneoff.report.charts.learning_rates import chart_learning_rates
from tuneoff.report.charts.memory import chart_memory
from tuneoff.report.charts.memory_over_time import chart_memory_over_time
from tuneoff.report.charts.retention import chart_retention
from tuneoff.report.charts.style import Chart
from tuneoff.report.charts.trade_offs import WIDE, chart_trade_offs, chart_widely
from tuneoff.report.compare import Comparison

__all__ = ["WIDE", "Chart", "make_charts"]


def make_charts(comparison: Comparison) -> list[Chart]:
    """Return all charts that a comparison's records allow; the widest first."""
    widest = chart_widely(comparison)
    charts = [
        *([widest] if widest else []),
        *chart_trade_offs(comparison),
        *chart_retention(comparison),
        *chart_learning_curves(comparison),
        *chart_learning_rates(comparison),
        *chart_memory(comparison),
        *chart_memory_over_time(comparison),
        *chart_ablations(comparison),
    ]
    # Two settings whose names differ in what a file's name cannot hold have a file each.
    counts: Counter[str] = Counter()
    for index, chart in enumerate(charts):
        counts[chart.name] += 1
        if counts[chart.name] > 1:
            charts[index] = replace(chart, name=f"{chart.name}_{counts[chart.name]}")
    return charts
