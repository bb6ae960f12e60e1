"""A report of forty methods: its charts stay readable, and one method far off does not flatten the others."""

import json

import altair as alt
import pytest
from records import load, record, write

from tuneoff.record import FAMILIES
from tuneoff.report.charts import Chart, make_charts
from tuneoff.report.charts.outliers import find_fence, pull_in

COUNT = 40
FAR_OFF = "method_39"


@pytest.fixture(scope="module")
def charts(tmp_path_factory) -> dict[str, Chart]:
    """Forty methods of all families, of which one has learned nothing."""
    folder = tmp_path_factory.mktemp("many")
    families = list(FAMILIES)
    for number in range(COUNT):
        method = f"method_{number:02}"
        loss = 9.0 if method == FAR_OFF else 3.0 + 0.005 * number
        content = record(method, loss=loss, noise=0.001, train_gib=0.5 + 0.01 * number)
        content["family"] = families[number % len(families)]
        write(folder / method, content)
    return {chart.name: chart for chart in make_charts(load(folder)[0])}


def find_panels(chart: Chart) -> list[dict]:
    alt.Chart.from_dict(json.loads(json.dumps(chart.spec)), validate=True)  # with tuples as lists
    return chart.spec["vconcat"]


def find_rows(chart: Chart, layer: dict) -> list[dict]:
    data = layer["data"]
    return data["values"] if "values" in data else chart.spec["datasets"][data["name"]]


@pytest.mark.parametrize("name", ["curve_step", "curve_token", "curve_second", "memory_over_time"])
def test_each_family_has_a_panel_with_the_names_of_its_own(charts, name):
    panels = find_panels(charts[name])
    assert [panel["title"]["text"] for panel in panels] == list(FAMILIES.values())
    named = []
    domains = set()
    for panel, family in zip(panels, FAMILIES, strict=True):
        labels = find_rows(charts[name], panel["layer"][-1])
        assert {label["family"] for label in labels} == {family}
        # Each name has a line of its own beside the panel.
        assert panel["height"] >= 12 * len(labels)
        named += [label["label"] for label in labels]
        domains.add(tuple(panel["layer"][0]["encoding"]["y"]["scale"]["domain"]))
    assert len(set(named)) == COUNT
    assert len(domains) == 1, "panels are compared by eye"


def test_titles_of_axes_stand_once(charts):
    chart = charts["curve_step"]
    first, *_, last = find_panels(chart)
    assert chart.spec["title"]["text"] == "Validation loss (nats per token)"
    assert first["layer"][0]["encoding"]["x"]["title"] is None
    assert last["layer"][0]["encoding"]["x"]["title"] == "Optimizer steps"


def test_a_dash_means_the_same_method_in_each_panel(charts):
    scales = [
        panel["layer"][0]["encoding"]["strokeDash"]["scale"]
        for panel in find_panels(charts["curve_step"])
    ]
    assert all(scale == scales[0] for scale in scales) and len(scales[0]["domain"]) == COUNT


@pytest.mark.parametrize("name", ["quality_memory", "quality_memory_wide", "curve_step"])
def test_one_method_far_off_stands_at_the_edge_with_its_value(charts, name):
    chart = charts[name]
    parts = find_panels(chart) if "vconcat" in chart.spec else [chart.spec]
    labels = []
    for part in parts:
        labels += find_rows(chart, part["layer"][-1])
        top = part["layer"][-1]["encoding"]["y"]["scale"]["domain"][1]
    assert top < 4.2
    (far_off,) = [label for label in labels if FAR_OFF in label["label"]]
    assert far_off["label"].startswith(f"{FAR_OFF} (9") and far_off["y"] <= top
    assert sum("(" in label["label"] for label in labels) == 1
    assert "in brackets: values beyond the axis" in chart.title


@pytest.mark.parametrize(
    ("values", "lower_is_better", "fence"),
    [
        ([3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 9.0], True, 3.6),
        ([0.5, 0.4, 0.45, 0.5, 0.52, 0.41, 0.44, 0.0], False, 0.4),
        ([3.0, 9.0], True, float("inf")),
        ([3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 1.0], True, float("inf")),  # far better is no fault
        ([3.0] * 10, True, float("inf")),
        # Nothing is flattened where the others are one, or where the axis grows a little.
        ([1.0] * 9 + [0.98], False, -float("inf")),
        ([3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 4.7], True, float("inf")),
    ],
)
def test_the_fence_is_on_the_worse_side(values, lower_is_better, fence):
    assert find_fence(values, lower_is_better) == (
        fence if lower_is_better else pytest.approx(fence)
    )
    points = [{"y": value, "label": "a", "y_low": value, "y_high": value} for value in values]
    pulled = pull_in(points, lower_is_better)
    assert [point["value"] for point in pulled] == values
    beyond = [point for point in pulled if point["y"] != point["value"]]
    assert all(point["y_low"] == point["y_high"] == fence for point in beyond)
    assert len(beyond) == (abs(fence) != float("inf"))


def test_saved_sizes_of_several_magnitudes_stand_on_a_logarithmic_axis(tmp_path):
    for number, saved_bytes in enumerate((2**10, 2**20, 2**25)):
        content = record(f"method_{number}", loss=3.0 + number)
        content["facts"]["saved_bytes"] = saved_bytes
        write(tmp_path / str(number), content)
    charts = {chart.name: chart for chart in make_charts(load(tmp_path)[0])}
    axis = charts["quality_saved"].spec["layer"][-1]["encoding"]["x"]
    assert axis["scale"]["type"] == "log"
    assert axis["axis"]["values"] == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])
    assert charts["quality_memory"].spec["layer"][-1]["encoding"]["x"]["scale"].get("type") is None
    # A label begins right of its point, or left of it, on this axis too.
    labels = find_rows(charts["quality_saved"], charts["quality_saved"].spec["layer"][-1])
    assert all(label["x"] > 0 for label in labels) and len(labels) == 3
