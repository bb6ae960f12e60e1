"""How charts look: one colour, shape and dash a method in every chart, and type that can be read in one column."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import altair as alt

from tuneoff.report.compare import Quality

Figure = alt.Chart | alt.LayerChart | alt.FacetChart
Named = Iterator[tuple[str, str, Figure]]  # name of the files, heading, chart
WIDTH, HEIGHT = 280, 220  # with axis and legend about 340 wide: a column of 3.3 inches
# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which is pale on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
CATEGORY_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#BBBBBB"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
DASHES = [[1, 0], [6, 2], [2, 2], [8, 2, 2, 2]]
STROKE: dict[str, Any] = {"symbolType": "stroke", "symbolSize": 350}  # long enough to show a dash


class Style:
    """What a chart gives its methods, by their place among all methods of the report."""

    def __init__(self, methods: Sequence[str], present: Collection[str], lines: bool = False):
        self.methods, self.present, self.lines = list(methods), sorted(set(present)), lines

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
        return alt.Shape(
            "method:N", title=None, scale=self._scale(SHAPES, 1), legend=self._legend()
        )

    @property
    def dash(self) -> alt.StrokeDash:
        """Another dash each time that the colours begin again."""
        return alt.StrokeDash(
            "method:N", title=None, scale=self._scale(DASHES, len(COLOURS)), legend=self._legend()
        )

    def _scale(self, styles: Sequence, step: int) -> alt.Scale:
        places = [self.methods.index(name) // step for name in self.present]
        return alt.Scale(
            domain=self.present, range=[styles[place % len(styles)] for place in places]
        )

    def _legend(self) -> alt.Legend:
        """As many columns as fit the chart's width."""
        widths = {
            columns: sum(
                max(map(len, self.present[start::columns]), default=0) for start in range(columns)
            )
            for columns in (3, 2)
        }
        columns = next((columns for columns, width in widths.items() if width <= 44), 1)
        return alt.Legend(columns=columns, symbolStrokeWidth=1.8, **(STROKE if self.lines else {}))


def inline(rows: list[dict]) -> dict[str, Any]:
    """Rows as a chart's own data: of plain types, since Altair validates its own, and copies lists, value by value."""
    return {"values": tuple(rows)}


def axis_range(values: Sequence[float], log: float = 0) -> list[float]:
    """A domain with a margin, so that no mark is cut; on a logarithmic axis the factor `log`."""
    low, high = min(values), max(values)
    if log:
        return [low / log, high * log]
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 1
    return [low - margin, high + margin]


def quality_axis(quality: Quality, points: Sequence[dict]) -> alt.Y:
    """The vertical axis of a measure, wide enough for the intervals of `points`."""
    domain = axis_range([point[key] for point in points for key in ("y", "y_low", "y_high")])
    return alt.Y(
        "y:Q", title=f"{quality.heading}{quality.unit}", scale=alt.Scale(zero=False, domain=domain)
    )


def ends(key: str, mean: float, half: float | None) -> dict[str, float]:
    """The ends of an interval; both at the mean where there is none."""
    return {f"{key}_low": mean - (half or 0), f"{key}_high": mean + (half or 0)}


def slug(key: str) -> str:
    """A config key as part of a file's name."""
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in key)[:40]


def styled(chart: Figure) -> dict:
    """The specification with fonts, legend and grid set."""
    return (
        chart.configure(font="Helvetica, Arial, sans-serif", background="white")
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
        .to_dict(validate=False)
    )  # a third of a second a report; the tests validate
