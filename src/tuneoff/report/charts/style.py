"""Style of the charts: a colour and shape a family in every report, and type legible in one column."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import altair as alt

from tuneoff.record import FAMILIES
from tuneoff.report.qualities import Quality
from tuneoff.report.records import LARGEST_DRAWN

Figure = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart
Point = dict[str, Any]  # a mark of a chart: what is encoded, by the names of the fields
FONT = 11
# With its axis 420 wide: in a column of 3.3 inches (238 points) the type is of 6 points.
WIDTH = 350
HEIGHT = 250
# Okabe and Ito's palette, which colour-blind readers can tell apart, with brown in place of its pale yellow.
FAMILY_COLOURS = {
    "full": "#000000",
    "partial": "#E69F00",
    "low_rank": "#0072B2",
    "rotation": "#56B4E9",
    "projection": "#D55E00",
    "block": "#009E73",
    "prompt": "#CC79A7",
    "other": "#7A5230",
}
FAMILY_SHAPES = {
    "full": "cross",
    "partial": "diamond",
    "low_rank": "circle",
    "rotation": "square",
    "projection": "triangle-up",
    "block": "triangle-down",
    "prompt": "triangle-left",
    "other": "triangle-right",
}
CATEGORY_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#BBBBBB"]
DASHES: list[list[float]] = [
    [1, 0],
    [7, 2],
    [3, 2],
    [8, 2, 2, 2],
    [4, 1, 1, 1],
    [1.5, 1.5],
]
LEGEND_CHARACTERS = 50  # that fit beside each other below a chart
FAMILY_TITLE = "method family"


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with the name of its files and a heading."""

    name: str
    title: str
    spec: dict


class FamilyStyle:
    """What a chart gives the families of its points, each of which has a `family`: the same in every report."""

    def __init__(self, points: Sequence[Point], has_legend: bool = True):
        """Style the families that the points belong to, with a legend or, where headings name them, without."""
        self._has_legend = has_legend
        families = {point["family"] for point in points}
        self.present = [family for family in FAMILIES if family in families]

    @property
    def colours(self) -> alt.Scale:
        """The families' colours."""
        return self._scale(FAMILY_COLOURS)

    @property
    def colour(self) -> alt.Color:
        """The colours, with a legend."""
        return alt.Color("family:N", title=None, scale=self.colours, legend=self._legend())

    @property
    def shape(self) -> alt.Shape:
        """The shapes, in the same legend."""
        scale = self._scale(FAMILY_SHAPES)
        return alt.Shape("family:N", title=None, scale=scale, legend=self._legend())

    def _scale(self, styles: dict[str, str]) -> alt.Scale:
        styles_present = [styles[family] for family in self.present]
        return alt.Scale(domain=self.present, range=styles_present)

    def _legend(self) -> alt.Legend | None:
        """The families by their headings, in as many columns as fit the chart's width."""
        if not self._has_legend:
            return None
        headings = [FAMILIES[family] for family in self.present]
        columns = 1
        for count in (2, 3, 4):
            width = 0
            for start in range(count):
                in_column = headings[start::count]
                width += max(map(len, in_column), default=0) + 4
            if width <= LEGEND_CHARACTERS:
                columns = count
        pairs = ", ".join(f"'{family}': '{FAMILIES[family]}'" for family in self.present)
        return alt.Legend(
            columns=columns, symbolStrokeWidth=1.8, labelExpr=f"({{{pairs}}})[datum.label]"
        )


def choose_dash(name: str) -> list[float]:
    """Return the dash of a method's line: by its name alone, so that it is the same in every report."""
    digest = sha256(name.encode("utf-8", "surrogatepass")).digest()
    return DASHES[digest[0] % len(DASHES)]


def inline_data(points: Sequence[Point]) -> dict[str, Any]:
    """Return points as a chart's own data.

    Of plain types, since Altair validates its own, and copies lists, value by value.
    """
    return {"values": tuple(points)}


def keep_drawable(points: Sequence[Point]) -> list[Point]:
    """Return the points of which every number has a place on an axis: a rate far too high may give a loss of 1e188."""
    return [point for point in points if all(map(_is_drawable, point.values()))]


def _is_drawable(value: Any) -> bool:
    """Whether a value is text, or a number of a size that an axis can show beside others."""
    return not isinstance(value, int | float) or abs(value) < LARGEST_DRAWN


def axis_range(values: Sequence[float], log_factor: float = 0) -> list[float]:
    """Return a domain with a margin, so that no mark is cut; on a logarithmic axis the factor `log_factor`."""
    low = min(values)
    high = max(values)
    if log_factor:
        return [low / log_factor, high * log_factor]
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 1
    return [low - margin, high + margin]


def quality_range(points: Sequence[Point]) -> list[float]:
    """Return the domain of a measure's axis, wide enough for the intervals of `points`."""
    return axis_range([point[key] for point in points for key in ("y", "y_low", "y_high")])


def quality_axis(quality: Quality, points: Sequence[Point]) -> alt.Y:
    """Return the vertical axis of a measure."""
    scale = alt.Scale(zero=False, domain=quality_range(points), nice=False)
    return alt.Y("y:Q", title=f"{quality.heading}{quality.unit}", scale=scale)


def interval_ends(key: str, mean: float, half: float | None) -> Point:
    """Return the ends of an interval; both at the mean where there is none."""
    width = half or 0
    return {f"{key}_low": mean - width, f"{key}_high": mean + width}


def draw_intervals(
    points: alt.Chart,
    x: alt.X,
    y: alt.Y,
) -> list[alt.Chart]:
    """Return the vertical and the horizontal bars of points' intervals."""
    rule = points.mark_rule(strokeWidth=1.2)
    vertical = rule.encode(
        x=x,
        y=alt.Y("y_low:Q"),
        y2=alt.Y2("y_high:Q"),
    )
    horizontal = rule.encode(
        x=alt.X("x_low:Q"),
        x2=alt.X2("x_high:Q"),
        y=y,
    )
    return [vertical, horizontal]


def file_name(key: str) -> str:
    """Return a config key or a metric's name as part of a file's name."""
    characters = [c if c.isalnum() and c.isascii() else "_" for c in key]
    return "".join(characters)[:40]


def make_chart(name: str, title: str, figure: Figure) -> Chart:
    """Return the chart of a figure, with fonts, legend and grid set."""
    return Chart(name, title, style_figure(figure))


def style_figure(figure: Figure, font: float = FONT) -> dict:
    """Return the figure's specification with fonts, legend and grid set."""
    styled = (
        figure.configure(font="Helvetica, Arial, sans-serif", background="white")
        .configure_axis(
            labelFontSize=font,
            titleFontSize=font + 0.5,
            titleFontWeight="normal",
            gridColor="#e8e8e8",
            domainColor="#666",
            tickColor="#666",
            titlePadding=6,
            labelFlush=False,
            labelOverlap=True,
        )
        .configure_legend(
            orient="bottom",
            labelFontSize=font,
            labelLimit=220,
            columnPadding=12,
            rowPadding=2,
            symbolSize=60,
            offset=6,
        )
        .configure_view(stroke=None)
    )
    return styled.to_dict(validate=False)  # a third of a second a report; the tests validate
