"""Labels: each point's name beside it and each line's name at its end, where none hides another."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from tuneoff.report.charts.geometry import Axis, Box
from tuneoff.report.charts.style import FONT, FamilyStyle, Point, inline_data

CHARACTER_WIDTH = 0.56  # of the type's size, on average in Helvetica
MOST_CHARACTERS = 26  # of a label
LINE_HEIGHT = 1.15  # of the type's size
MARK = 6.0  # from a mark's middle to its edge
# Directions from a point: right, left, above, below, then between them.
BESIDE = ((1, 0), (-1, 0))
ABOVE_OR_BELOW = ((0, -1), (0, 1))
AT_A_CORNER = ((1, -1), (-1, -1), (1, 1), (-1, 1))
DIRECTIONS = (*BESIDE, *ABOVE_OR_BELOW, *AT_A_CORNER)
RINGS = (9.0, 17.0, 28.0, 42.0, 60.0, 84.0, 110.0)
FIRST_WITH_LEADER = 2  # from this ring on a thin line leads from the point to its label
# What a place for a label costs: over another label or a point, over an interval, and a ring further out.
OVER_LABEL = 100.0
OVER_INTERVAL = 2.0
FURTHER_OUT = 1.0
LEADER_WIDTH = 18  # from the plot to the labels of lines
LEADER: dict[str, Any] = {"color": "#999999", "strokeWidth": 0.7}


def cut_label(text: str) -> str:
    """Return a text of few enough characters for a label."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def text_width(text: str, font: float = FONT) -> float:
    """Return about how many pixels a text is wide."""
    return len(text) * font * CHARACTER_WIDTH


# ---------------------------------------------------------------- beside points
def place_labels(
    points: Sequence[Point],
    x_axis: Axis,
    y_axis: Axis,
    font: float = FONT,
    obstacles: Sequence[Box] = (),
) -> list[Point]:
    """Return a label for each point: its text, its left end, and where its leader begins and ends.

    Points with the most neighbours choose first. Each label takes the place that costs least: over no other label and
    no point, then over no interval and none of the `obstacles`, then near its point.
    """
    marks = []
    for point in points:
        x = x_axis.to_pixels(point["x"])
        marks.append(_box_around(x, y_axis.to_pixels(point["y"]), MARK))
    intervals = list(obstacles)
    for point in points:
        intervals += _interval_boxes(point, x_axis, y_axis)
    labels: list[Point] = []
    placed: list[Box] = []
    crowding = [_count_near(marks, mark) for mark in marks]
    for index in sorted(range(len(points)), key=crowding.__getitem__, reverse=True):
        point = points[index]
        text = cut_label(point["label"])
        best: tuple[float, int, Box] | None = None
        for ring, candidate in _candidates(marks[index], text, font):
            if not candidate.inside(x_axis.length, y_axis.length):
                continue
            cost = FURTHER_OUT * ring
            cost += OVER_LABEL * sum(map(candidate.overlaps, [*placed, *marks]))
            cost += OVER_INTERVAL * sum(map(candidate.overlaps, intervals))
            if best is None or cost < best[0]:
                best = (cost, ring, candidate)
        if best is None:  # wider than the plot
            continue
        _, ring, box = best
        placed.append(box)
        labels.append(_describe_label(point, text, box, ring, x_axis, y_axis))
    return labels


def _box_around(x: float, y: float, reach: float) -> Box:
    return Box(x - reach, y - reach, x + reach, y + reach)


def _interval_boxes(point: Point, x_axis: Axis, y_axis: Axis) -> list[Box]:
    """The lines of a point's intervals, a pixel to each side."""
    x = x_axis.to_pixels(point["x"])
    y = y_axis.to_pixels(point["y"])
    left = x_axis.to_pixels(point["x_low"])
    right = x_axis.to_pixels(point["x_high"])
    top = y_axis.to_pixels(point["y_high"])
    bottom = y_axis.to_pixels(point["y_low"])
    across = Box(left, y - 1, right, y + 1)
    upright = Box(x - 1, top, x + 1, bottom)
    return [across, upright]


def _count_near(marks: Sequence[Box], mark: Box) -> int:
    """How many marks lie within a label's reach of one."""
    reach = Box(
        left=mark.left - 60,
        top=mark.top - 20,
        right=mark.right + 60,
        bottom=mark.bottom + 20,
    )
    return sum(map(reach.overlaps, marks))


def _candidates(
    mark: Box,
    text: str,
    font: float,
) -> list[tuple[int, Box]]:
    """Where a label may stand: the number of the ring, and the box."""
    width = text_width(text, font)
    height = font * LINE_HEIGHT
    x = (mark.left + mark.right) / 2
    y = (mark.top + mark.bottom) / 2
    candidates = []
    for ring, distance in enumerate(RINGS):
        for across, down in DIRECTIONS:
            left = x - width / 2
            if across:
                left = x + distance if across > 0 else x - distance - width
            middle = y + down * (distance + height / 2)
            box = Box(left, middle - height / 2, left + width, middle + height / 2)
            candidates.append((ring, box))
    return candidates


def _describe_label(
    point: Point, text: str, box: Box, ring: int, x_axis: Axis, y_axis: Axis
) -> Point:
    """A label as the chart's data have it; a leader of no length where it stands beside its point."""
    x = x_axis.to_pixels(point["x"])
    middle = (box.top + box.bottom) / 2
    end_x = point["x"]
    end_y = point["y"]
    if ring >= FIRST_WITH_LEADER:
        end_x = x_axis.to_value(min(max(x, box.left), box.right))
        end_y = y_axis.to_value(middle)
    return {
        "family": point["family"],
        "label": text,
        "x": x_axis.to_value(box.left),
        "y": y_axis.to_value(middle),
        "from_x": point["x"],
        "from_y": point["y"],
        "to_x": end_x,
        "to_y": end_y,
    }


def draw_labels(
    labels: Sequence[Point],
    x: alt.X,
    y: alt.Y,
    style: FamilyStyle,
    font: float = FONT,
) -> list[alt.Chart]:
    """Return the layers of labels and their leaders."""
    base = alt.Chart(inline_data(labels))
    leaders = base.mark_rule(**LEADER).encode(
        x=alt.X("from_x:Q", scale=x["scale"]),
        y=alt.Y("from_y:Q", scale=y["scale"]),
        x2=alt.X2("to_x:Q"),
        y2=alt.Y2("to_y:Q"),
    )
    texts = base.mark_text(align="left", baseline="middle", fontSize=font)
    text = alt.Text("label:N")
    texts = texts.encode(x=x, y=y, text=text, color=style.colour)
    return [leaders, texts]


def spread_ends(
    heights: Sequence[float],
    least: float,
    most: float,
    gap: float,
) -> list[float]:
    """Return heights in pixels that are `gap` apart or more, in the same order, as near to those given as may be.

    Heights less their place times `gap` must not fall. Where they would, the mean of those neighbours takes their
    place (R. E. Barlow et al. 1972, the pool-adjacent-violators algorithm), which is nearest in squares.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    gap = min(gap, (most - least) / max(1, len(heights) - 1))
    pools: list[tuple[float, int]] = []  # the mean of each, and how many heights it has
    for place, index in enumerate(order):
        mean = heights[index] - place * gap
        count = 1
        while pools and pools[-1][0] > mean:
            earlier_mean, earlier_count = pools.pop()
            mean = (earlier_mean * earlier_count + mean * count) / (earlier_count + count)
            count += earlier_count
        pools.append((mean, count))
    highest = most - (len(heights) - 1) * gap
    spread = [0.0] * len(heights)
    place = 0
    for mean, count in pools:
        for _ in range(count):
            spread[order[place]] = min(max(mean, least), highest) + place * gap
            place += 1
    return spread


def label_ends(
    ends: Sequence[Point], y_axis: Axis, font: float = FONT
) -> tuple[list[Point], float]:
    """Return a label for the end of each line, right of the plot, and the width that they take.

    Args:
        ends: the last point of each line, with its `label`.
        y_axis: the vertical axis.
        font: the size of the type.
    """
    heights = [y_axis.to_pixels(end["y"]) for end in ends]
    spread = spread_ends(heights, 0, y_axis.length, font * LINE_HEIGHT)
    labels = []
    for end, height in zip(ends, spread, strict=True):
        label = {
            "family": end["family"],
            "label": cut_label(end["label"]),
            "x": end["x"],
            "y": end["y"],
            "to_y": y_axis.to_value(height),
        }
        labels.append(label)
    widest = max((text_width(label["label"], font) for label in labels), default=0)
    return labels, widest


def draw_ends(
    labels: Sequence[Point],
    x: alt.X,
    y: alt.Y,
    style: FamilyStyle,
    width: float,
    font: float = FONT,
) -> list[alt.Chart]:
    """Return the layers of the labels at the ends of lines, and of the thin lines that lead to them."""
    base = alt.Chart(inline_data(labels))
    side = width + LEADER_WIDTH
    leaders = base.mark_rule(**LEADER).encode(
        x=alt.X("x:Q", scale=x["scale"]),
        y=y,
        x2=alt.X2(value=side - 2),
        y2=alt.Y2("to_y:Q"),
    )
    texts = base.mark_text(align="left", baseline="middle", fontSize=font)
    placed = texts.encode(
        x=alt.XValue(side),
        y=alt.Y("to_y:Q", scale=y["scale"]),
        text=alt.Text("label:N"),
        color=style.colour,
    )
    return [leaders, placed]
