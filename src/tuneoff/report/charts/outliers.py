"""Outliers: points so far from the others that an axis with them would show no difference between the others."""

import math
from collections.abc import Sequence

import numpy as np

from tuneoff.report.charts.style import Point

LEAST_POINTS = 8  # fewer have no quartiles worth the name
# A point is far out so many quartile distances beyond the worse quartile (J. W. Tukey 1977, Exploratory Data Analysis).
FAR_OUT = 3
# With it the axis would be so many times as long.
LENGTHENED = 3


def find_fence(values: Sequence[float], lower_is_better: bool) -> float:
    """Return the worst value that is drawn in its place; infinite, on the worse side, where that is every value."""
    sign = 1 if lower_is_better else -1
    none = sign * math.inf
    worse = sign * np.asarray(values)
    if len(worse) < LEAST_POINTS:
        return none
    first, third = np.percentile(worse, [25, 75])
    within = worse[worse <= third + FAR_OUT * (third - first)]
    length = np.ptp(within)
    if length == 0 or np.ptp(worse) <= LENGTHENED * length:
        return none
    # At the worst of those within, so that no room is left empty.
    return sign * float(within.max())


def pull_in(points: Sequence[Point], lower_is_better: bool) -> list[Point]:
    """Return points of which none lies beyond the fence of all; the label of one that did tells where it really is.

    Args:
        points: each with `y`, `label`, and the ends of an interval where it has one.
        lower_is_better: which side is the worse.

    Returns:
        The points, each with its own value as `value`.
    """
    fence = find_fence([point["y"] for point in points], lower_is_better)
    limit = min if lower_is_better else max
    drawn = []
    for point in points:
        value = point["y"]
        pulled = {**point, "value": value}
        if limit(value, fence) != value:
            pulled.update(y=fence, label=f"{point['label']} ({value:.3g})")
            pulled.update({key: fence for key in ("y_low", "y_high") if key in point})
        drawn.append(pulled)
    return drawn


def describe_pulled(points: Sequence[Point], lower_is_better: bool) -> str:
    """Return what a chart's title says of points beyond the fence; nothing where there are none."""
    fence = find_fence([point["y"] for point in points], lower_is_better)
    return "; in brackets: values beyond the axis" if math.isfinite(fence) else ""
