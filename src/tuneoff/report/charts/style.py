"""Style of the charts: one colour, shape and dash a method in every chart, and type legible in one column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from tuneoff.report.compare import Quality
from tuneoff.report.records import LARGEST_DRAWN

Figure = alt.Chart | alt.LayerChart | alt.FacetChart
Point = dict[str, Any]  # a mark of a chart: what is encoded, by the names of the fields
# With axis and legend about 340 wide: a column of 3.3 inches.
WIDTH = 280
HEIGHT = 220
# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which is pale on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
CATEGORY_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#BBBBBB"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
DASHES = [
    [1, 0],
    [6, 2],
    [2, 2],
    [8, 2, 2, 2],
]
STROKE: dict[str, Any] = {"symbolType": "stroke", "symbolSize": 350}  # long enough to show a dash
LEGEND_CHARACTERS = 44  # that fit beside each other below a chart


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with the name of its files and a heading."""

    name: str
    title: str
    spec: dict


class MethodStyle:
    """What a chart gives its methods, by their place among all methods of the report."""

    def __init__(self, methods: Sequence[str], points: Sequence[Point], lines: bool = False):
        """Style the methods that a chart shows.

        Args:
            methods: all methods of the report.
            points: what the chart shows; each has a `method`.
            lines: whether the chart joins them.
        """
        self.methods = list(methods)
        self.present = sorted({point["method"] for point in points})
        self.lines = lines

    @property
    def colours(self) -> alt.Scale:
        """Seven colours; from the eighth method on they return with another shape and dash."""
        return self._scale(COLOURS, 1)

    @property
    def colour(self) -> alt.Color:
        """The colours, with a legend."""
        return alt.Color("method:N", title=None, scale=self.colours, legend=self._legend())

    @property
    def shape(self) -> alt.Shape:
        """Six shapes beside seven colours: 42 methods differ."""
        scale = self._scale(SHAPES, 1)
        return alt.Shape("method:N", title=None, scale=scale, legend=self._legend())

    @property
    def dash(self) -> alt.StrokeDash:
        """Another dash each time that the colours begin again."""
        scale = self._scale(DASHES, len(COLOURS))
        return alt.StrokeDash("method:N", title=None, scale=scale, legend=self._legend())

    def _scale(self, styles: Sequence, step: int) -> alt.Scale:
        """A style for each method; `step` methods in turn have the same one."""
        chosen = []
        for method in self.present:
            place = self.methods.index(method) // step
            chosen.append(styles[place % len(styles)])
        return alt.Scale(domain=self.present, range=chosen)

    def _legend(self) -> alt.Legend:
        """As many columns as fit the chart's width."""
        columns = 1
        for count in (2, 3):
            if self._legend_characters(count) <= LEGEND_CHARACTERS:
                columns = count
        symbols = STROKE if self.lines else {}
        return alt.Legend(columns=columns, symbolStrokeWidth=1.8, **symbols)

    def _legend_characters(self, columns: int) -> int:
        """The width of a legend of so many columns, by their longest names."""
        width = 0
        for start in range(columns):
            names = self.present[start::columns]
            width += max(map(len, names), default=0)
        return width


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


def quality_axis(quality: Quality, points: Sequence[Point]) -> alt.Y:
    """Return the vertical axis of a measure, wide enough for the intervals of `points`."""
    domain = axis_range([point[key] for point in points for key in ("y", "y_low", "y_high")])
    scale = alt.Scale(zero=False, domain=domain)
    return alt.Y("y:Q", title=f"{quality.heading}{quality.unit}", scale=scale)


def interval_ends(key: str, mean: float, half: float | None) -> Point:
    """Return the ends of an interval; both at the mean where there is none."""
    width = half or 0
    return {f"{key}_low": mean - width, f"{key}_high": mean + width}


def file_name(key: str) -> str:
    """Return a config key or a metric's name as part of a file's name."""
    characters = [c if c.isalnum() and c.isascii() else "_" for c in key]
    return "".join(characters)[:40]


def make_chart(name: str, title: str, figure: Figure) -> Chart:
    """Return the chart of a figure, with fonts, legend and grid set."""
    return Chart(name, title, style_figure(figure))


def style_figure(figure: Figure) -> dict:
    """Return the figure's specification with fonts, legend and grid set."""
    styled = (
        figure.configure(font="Helvetica, Arial, sans-serif", background="white")
        .configure_axis(
            labelFontSize=11,
            titleFontSize=11.5,
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
            labelFontSize=11,
            labelLimit=160,
            columnPadding=12,
            rowPadding=2,
            symbolSize=60,
            offset=6,
        )
        .configure_view(stroke=None)
    )
    return styled.to_dict(validate=False)  # a third of a second a report; the tests validate
