"""Labels: each point's name beside it and each line's name at its end, where none hides another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

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


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from the upper left corner of the plot."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share an area."""
        beside = self.right <= other.left or other.right <= self.left
        apart = self.bottom <= other.top or other.bottom <= self.top
        return not beside and not apart

    def inside(self, width: float, height: float) -> bool:
        """Whether it lies within the plot."""
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height


@dataclass(frozen=True)
class Axis:
    """A linear axis: the values at its ends, and its length in pixels."""

    domain: Sequence[float]
    length: float
    upward: bool = False

    def to_pixels(self, value: float) -> float:
        """Return how far from the left, or from the top, a value lies."""
        low, high = self.domain
        share = (value - low) / (high - low)
        return self.length * (1 - share if self.upward else share)

    def to_value(self, pixels: float) -> float:
        """Return the value at a distance from the left, or from the top."""
        low, high = self.domain
        share = pixels / self.length
        return low + (high - low) * (1 - share if self.upward else share)


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
