"""Charts: every one the report knows, the same styles everywhere, units, and type that can be read."""

import itertools
import json
import subprocess

import altair as alt
import numpy as np
import pytest
from records import METHODS, comparison, load, prediction, program, ranks, record, tuning, write

from tuneoff.report.charts import Chart, make_charts
from tuneoff.report.charts.geometry import Axis, Box
from tuneoff.report.charts.labels import place_labels, spread_ends, text_width
from tuneoff.report.charts.style import CATEGORY_COLOURS, FAMILY_COLOURS, FAMILY_SHAPES, FONT
from tuneoff.report.write_report import write_chart


def drawn(made) -> dict[str, Chart]:
    return {chart.name: chart for chart in make_charts(made)}


def layers(chart: Chart) -> list[dict]:
    spec = chart.spec.get("spec", chart.spec)  # inside, where a chart has a panel a method
    return spec.get("layer", [spec])


def rows(chart: Chart, layer: int = 0) -> list[dict]:
    data = layers(chart)[layer].get("data") or chart.spec["data"]
    return data["values"] if "values" in data else chart.spec["datasets"][data["name"]]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Every chart, drawn once for all tests that only read them."""
    folder = tmp_path_factory.mktemp("everything")
    comparison(folder / "compare")
    write(folder / "compare" / "predicted", prediction(METHODS[0]), "prediction.json")
    return {
        **drawn(load(tuning(folder / "tune"))[0]),
        **drawn(load(ranks(folder / "ranks"))[0]),
        **drawn(load(folder / "compare")[0]),
    }


def test_all_charts_are_there_and_valid(everything):
    assert set(everything) == {
        "quality_memory",
        "quality_memory_wide",
        "quality_speed",
        "curve_step",
        "curve_token",
        "curve_second",
        "learning_rate",
        "memory_breakdown",
        "memory_over_time",
        "ablation_some_rank",
        "ablation_some_interval",
    }
    for chart in everything.values():
        alt.Chart.from_dict(
            json.loads(json.dumps(chart.spec))
        )  # validates against Vega-Lite's schema


def scales(chart: Chart, channel: str) -> list[dict]:
    """What a channel gives the families of a chart, layer by layer."""
    found = []
    for layer in layers(chart):
        encoding = layer["encoding"].get(channel, {})
        if encoding.get("field") == "family":
            scale = encoding["scale"]
            found.append(dict(zip(scale["domain"], scale["range"], strict=True)))
    return found


def test_a_family_has_one_colour_and_shape_in_every_report(everything, tmp_path):
    """Whatever other methods are there: a report on two of them gives them what one on eleven does."""
    for method in METHODS[-2:]:
        for seed in range(3):
            write(tmp_path / f"{method}{seed}", record(method, seed))
    two = drawn(load(tmp_path)[0])
    seen = set()
    for chart in [*everything.values(), *two.values()]:
        for colours in scales(chart, "color"):
            assert all(FAMILY_COLOURS[family] == colour for family, colour in colours.items())
            seen.update(colours)
        for shapes in scales(chart, "shape"):
            assert all(FAMILY_SHAPES[family] == shape for family, shape in shapes.items())
    assert seen == {"full", "partial", "low_rank", "projection", "block"}
    assert len(set(FAMILY_COLOURS.values())) == len(set(FAMILY_SHAPES.values())) == 8


def test_a_record_without_a_known_family_is_drawn_as_another(tmp_path):
    for place, family in enumerate((None, "no family", ["full"])):
        content = record(METHODS[place])
        content["family"] = family
        write(tmp_path / str(place), content)
    (chart, *_) = drawn(load(tmp_path)[0]).values()
    assert scales(chart, "color")[0] == {"other": FAMILY_COLOURS["other"]}


# What becomes of linear RGB where one of the three cones is missing: Machado, Oliveira and Fernandes (2009).
BLIND = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize(
    "colours", [list(FAMILY_COLOURS.values()), CATEGORY_COLOURS], ids=["families", "parts"]
)
@pytest.mark.parametrize("kind", BLIND)
def test_colour_blind_readers_can_tell_the_colours_apart(kind, colours):
    """By their distance in CIE L*a*b*, of which 2 can just be seen and 100 is from black to white."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    srgb = np.array(
        [[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours]
    )
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLIND[kind]).T, 0, 1) @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    assert (
        min(np.linalg.norm(first - second) for first, second in itertools.combinations(lab, 2)) > 15
    )


def test_quality_has_its_intervals(everything, tmp_path):
    (made,) = load(comparison(tmp_path / "again"))
    row = next(row for row in made.rows if row.method == METHODS[0])
    (point,) = [
        point for point in rows(everything["quality_speed"], 1) if point["method"] == METHODS[0]
    ]
    for axis, path in (("x", "throughput.tokens_per_second"), ("y", "loss.test")):
        found = row.estimate(path)
        assert (point[f"{axis}_low"], point[f"{axis}_high"]) == (
            found.mean - found.half,
            found.mean + found.half,
        )


def labels(chart: Chart) -> list[dict]:
    return rows(chart, len(layers(chart)) - 1)


def test_every_method_is_named_at_its_point_and_at_the_end_of_its_line(everything):
    for name in ("quality_memory", "quality_memory_wide", "quality_speed", "curve_step"):
        names = {label["label"] for label in labels(everything[name])}
        assert names == set(METHODS) - {METHODS[2]}  # which ran out of memory


def make_points(count: int) -> list[dict]:
    """Points that lie close together, as those of methods do."""
    rng = np.random.default_rng(count)
    points = []
    for number, (x, y) in enumerate(rng.normal(0.5, 0.12, (count, 2))):
        ends = {"x_low": x, "x_high": x, "y_low": y - 0.02, "y_high": y + 0.02}
        points.append({"family": "other", "label": f"method_{number}", "x": x, "y": y, **ends})
    return points


@pytest.mark.parametrize("count", [2, 11, 40])
def test_labels_hide_neither_each_other_nor_a_point(count):
    width, height = 860, max(400, 15 * count)
    x_axis, y_axis = Axis([0, 1], width), Axis([0, 1], height, upward=True)
    points = make_points(count)
    placed = place_labels(points, x_axis, y_axis)
    assert len(placed) == count
    boxes = []
    for label in placed:
        left, middle = x_axis.to_pixels(label["x"]), y_axis.to_pixels(label["y"])
        end = left + text_width(label["label"])
        boxes.append(Box(left, middle - FONT / 2, end, middle + FONT / 2))
        assert boxes[-1].inside(width, height)
    marks = [(x_axis.to_pixels(point["x"]), y_axis.to_pixels(point["y"])) for point in points]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for box, (x, y) in itertools.product(boxes, marks):
        assert not box.overlaps(Box(x - 4, y - 4, x + 4, y + 4))


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([50, 10], [50, 10]),
        ([50, 50, 50], [40, 50, 60]),
        ([0, 0, 100], [0, 10, 100]),
        ([100, 99], [100, 90]),
        ([20, 22, 80], [16, 26, 80]),
        ([], []),
    ],
)
def test_labels_of_lines_stay_in_order_and_near_their_lines(heights, expected):
    assert spread_ends(heights, 0, 100, 10) == pytest.approx(expected)


def test_axes_have_units_and_type_is_legible_in_one_column(everything, tmp_path):
    units = {
        "quality_memory": "GiB",
        "quality_speed": "tokens/s",
        "curve_second": "(s)",
        "memory_breakdown": "GiB",
        "memory_over_time": "GiB",
    }
    for name, chart in everything.items():
        titles = [
            layer["encoding"][axis].get("title")
            for layer in layers(chart)
            for axis in ("x", "y")
            if axis in layer["encoding"]
        ]
        assert any(titles) and (
            name not in units or any(units[name] in str(title) for title in titles)
        )
        if name.endswith("_wide"):  # over both columns of a page, in type of 14
            continue
        write_chart(chart, tmp_path, "")
        width = float((tmp_path / f"{name}.svg").read_text().split('width="')[1].split('"')[0])
        # In a column of 3.3 inches (238 pt) the smallest type, 11 units, must be 6 pt or more.
        assert 11 * 238 / width >= 6, (name, width)


def test_svg_pdf_and_png_come_from_the_same_specification(everything, tmp_path):
    chart = everything["quality_memory"]
    assert write_chart(chart, tmp_path, "") == [
        "quality_memory.svg",
        "quality_memory.pdf",
        "quality_memory.png",
    ]
    assert (tmp_path / "quality_memory.png").read_bytes().startswith(b"\x89PNG")
    shown = subprocess.run(
        [program("pdftotext"), tmp_path / "quality_memory.pdf", "-"], capture_output=True, text=True
    )
    for text in (shown.stdout, (tmp_path / "quality_memory.svg").read_text()):
        assert "GiB" in text and METHODS[0] in text


def test_the_pareto_front_is_right(everything):
    points = rows(everything["quality_memory"], 1)
    front = {point["name"] for point in rows(everything["quality_memory"], 0)}
    assert front == {
        point["name"]
        for point in points
        if not any(
            other["x"] <= point["x"] and other["y"] <= point["y"] and other != point
            for other in points
        )
    }


def test_learning_rates_mark_the_best_its_edge_and_what_diverged(everything):
    points = {(point["method"], point["x"]): point for point in rows(everything["learning_rate"])}
    outcomes = {key: point["outcome"] for key, point in points.items()}
    assert len(points) == 6 * 5
    assert (
        outcomes[METHODS[3], 1e-2] == "best, on the edge of its grid"
        and outcomes[METHODS[0], 3e-4] == "best"
    )
    assert (
        outcomes[METHODS[0], 1e-2] == "no seed finished"
        and points[METHODS[0], 1e-2]["runs"] == "diverged 1"
    )
    assert list(outcomes.values()).count("best") == 5


def test_the_best_rate_is_the_one_that_a_tuning_takes(tmp_path):
    """A seed that diverged is worse than any loss, and rates are compared on the seeds that all have."""
    losses = {
        METHODS[0]: {1e-4: (3.5, 3.5), 1e-3: (3.3, 3.3), 1e-2: (3.0, None)},
        METHODS[1]: {1e-4: (3.0, 3.2), 1e-3: (3.1,), 1e-2: (3.6, 3.7)},
        METHODS[2]: {1e-4: (3.1, None), 1e-3: (3.0, None)},
    }
    for method, rates in losses.items():
        for rate, of_seeds in rates.items():
            for seed, loss in enumerate(of_seeds):
                content = record(method, seed, lr=rate, status="finished" if loss else "diverged")
                content["loss"] |= {"final": loss, "test": loss}
                write(tmp_path / f"{method}{rate}{seed}", content)
    (made,) = load(tmp_path)
    points = rows(drawn(made)["learning_rate"])
    outcomes = {(point["method"], point["x"]): point["outcome"] for point in points}
    partly = "a seed came to no loss: not chosen"
    assert outcomes[METHODS[0], 1e-3] == "best" and outcomes[METHODS[0], 1e-2] == partly
    assert outcomes[METHODS[1], 1e-4] == "best, on the edge of its grid"
    assert outcomes[METHODS[2], 1e-4] == outcomes[METHODS[2], 1e-3] == partly
    best = {row.method: row.rate for row in made.best_rows}
    assert best == {METHODS[0]: 1e-3, METHODS[1]: 1e-4, METHODS[2]: 1e-3}
    assert {row.method: row.rate for row in made.tuned_rows} == best


def test_a_rate_that_spoils_a_run_does_not_flatten_the_others(tmp_path):
    for method, rates in (
        (METHODS[0], (3.1, 3.0, 3.2, 3.3, 9.0)),
        (METHODS[1], (8.0, 3.4, 3.05, 3.1, 3.2)),
    ):
        for index, loss in enumerate(rates):
            write(
                tmp_path / f"{method}{index}",
                record(method, lr=10.0 ** (index - 5), loss=loss, noise=0.001),
            )
    chart = drawn(load(tmp_path)[0])["learning_rate"]
    low, high = layers(chart)[-1]["encoding"]["y"]["scale"]["domain"]
    above = {
        (point["method"], point["x"])
        for point in rows(chart)
        if point["outcome"] == "loss above the dashed line"
    }
    assert (
        above == {(METHODS[0], 10.0**-1), (METHODS[1], 10.0**-5)}
        and 2.9 < low < 3
        and 3.4 < high < 3.7
    )
    (top,) = [
        layer["encoding"]["y"]["datum"]
        for layer in layers(chart)
        if "datum" in layer["encoding"].get("y", {})
    ]
    ticks = layers(chart)[-1]["encoding"]["y"]["axis"]["values"]
    # What lies above the axis stands in a strip of its own, where no height is a loss.
    assert low < min(ticks) and max(ticks) <= top < high
    for point in rows(chart):
        is_above = point["outcome"] == "loss above the dashed line"
        assert (top < point["shown"] < high) if is_above else (low < point["shown"] <= top)
    assert max(point["y"] for point in rows(chart)) > 8  # the tips say what it was


def test_a_method_without_any_loss_has_no_empty_panel_and_is_named(tmp_path):
    for index in range(3):
        write(tmp_path / f"a{index}", record(METHODS[0], lr=10.0**-index, loss=3 + index / 10))
        write(tmp_path / f"b{index}", record(METHODS[1], lr=10.0**-index, status="diverged"))
    chart = drawn(load(tmp_path)[0])["learning_rate"]
    assert {point["method"] for point in rows(chart)} == {METHODS[0]}
    assert f"no seed finished at any rate of {METHODS[1]}" in chart.title


def test_quality_is_drawn_at_each_settings_best_rate(tmp_path):
    for index, loss in enumerate((3.1, 3.0, 5.0)):
        for rank in (8, 16):
            write(
                tmp_path / f"{index}{rank}",
                record(METHODS[0], lr=10.0**-index, loss=loss + rank / 100, some=rank),
            )
    chart = drawn(load(tmp_path)[0])["quality_memory"]
    assert "each setting at its best rate" in chart.title
    assert [point["name"] for point in rows(chart, 1)] == [
        f"{METHODS[0]} some={rank} lr=0.1" for rank in ("16", "8")
    ]


def test_curves_end_where_the_runs_end(everything):
    for unit, end in (("step", 200), ("token", 130_000)):
        assert max(point["x"] for point in rows(everything[f"curve_{unit}"])) == pytest.approx(end)
    first = [point for point in rows(everything["curve_second"]) if point["method"] == METHODS[0]]
    assert first[-1]["x"] == pytest.approx(200 * 650 / 2500, rel=0.01)


def test_curves_begin_where_they_come_into_the_chart(everything):
    """Not clipped: that takes ten times as long to render as all else."""
    for unit in ("step", "token", "second"):
        chart = everything[f"curve_{unit}"]
        top = layers(chart)[0]["encoding"]["y"]["scale"]["domain"][1]
        for method in METHODS[:2]:
            line = [point for point in rows(chart) if point["method"] == method]
            assert line[0]["y"] == top > max(point["y"] for point in line[1:])
            assert 0 < line[0]["x"] < line[1]["x"] and "clip" not in layers(chart)[0]["mark"]


def test_without_evaluations_the_training_loss_is_drawn_and_said(tmp_path):
    for seed in range(3):
        content = record(METHODS[0], seed)
        content["curve"] = [line for line in content["curve"] if "loss" in line]
        write(tmp_path / str(seed), content)
    assert drawn(load(tmp_path)[0])["curve_step"].title.startswith("Training loss")


def test_predicted_stands_beside_measured(everything):
    kinds = {(bar["method"], bar["kind"]) for bar in rows(everything["memory_breakdown"])}
    assert {(METHODS[0], "measured"), (METHODS[0], "predicted")} <= kinds


def test_ablation_lines_join_rows_that_differ_in_one_key(everything):
    points = rows(everything["ablation_some_rank"])
    assert {point["others"] for point in points} == {"some_interval=50", "some_interval=200"}
    assert sorted({point["x"] for point in points}) == [8, 32, 128]


def test_ticks_of_a_setting_are_its_values(everything, tmp_path):
    write_chart(everything["ablation_some_interval"], tmp_path, "")
    shown = (tmp_path / "ablation_some_interval.svg").read_text()
    assert ">50<" in shown and ">200<" in shown


def test_nothing_finished_gives_no_chart_of_results(tmp_path):
    write(tmp_path, record(METHODS[0], status="out_of_memory"))
    assert drawn(load(tmp_path)[0]) == {}


def test_what_a_model_costs_afterwards_is_drawn(tmp_path):
    for place, method in enumerate(METHODS[:2]):
        for seed in range(3):
            content = record(method, seed)
            content["facts"] = {"saved_bytes": (place + 1) * 2**20}
            content["serving"] = {"decode_tokens_per_second": 50.0 + place + seed}
            write(tmp_path / method / str(seed), content)
    charts = drawn(load(tmp_path)[0])
    assert [point["x"] for point in rows(charts["quality_saved"], 1)] == [1, 2]
    assert [point["x"] for point in rows(charts["quality_decoding"], 1)] == [51, 52]
    assert "quality_decoding" not in drawn(load(write_two(tmp_path / "without"))[0])


def write_two(folder):
    """Two records without a word on serving."""
    for method in METHODS[:2]:
        write(folder / method, record(method))
    return folder


def test_memory_over_time_is_the_mean_over_seeds(everything):
    points = rows(everything["memory_over_time"])
    for method in {point["method"] for point in points}:
        own = [point["y"] for point in points if point["method"] == method]
        # The records' memory rises from 0.5 GiB by a fifth.
        assert own == sorted(own) and own[-1] == pytest.approx(0.6, abs=1e-3)


def test_without_memory_in_the_curves_there_is_no_such_chart(tmp_path):
    content = record(METHODS[0], 1)
    for line in content["curve"]:
        line.pop("resident_gib", None)
        line.pop("allocated_gib", None)
    write(tmp_path / "one", content)
    assert "memory_over_time" not in drawn(load(tmp_path)[0])


def test_the_target_is_drawn_against_retention(tmp_path):
    for place, method in enumerate(METHODS[:2]):
        for seed in range(3):
            content = record(method, seed, loss=3.0, noise=0.001)
            content["metrics"] = {"forgetting": 0.1 * (place + 1) + 0.001 * seed}
            evaluations = [line["step"] for line in content["curve"] if "validation_loss" in line]
            last = evaluations[-1]
            for step in evaluations:
                rise = 0.1 * (place + 1) * step / last
                content["curve"].append({"step": step, "second_set_loss": 2.0 + rise})
            write(tmp_path / method / str(seed), content)
    chart = drawn(load(tmp_path)[0])["retention"]
    ends = {point["name"]: point for point in rows(chart, 1)}
    assert ends[METHODS[0]]["x"] == pytest.approx(0.101)
    assert ends[METHODS[1]]["x_low"] < ends[METHODS[1]]["x"] == pytest.approx(0.201)
    path = [point for point in rows(chart) if point["name"] == METHODS[1]]
    assert [point["step"] for point in path] == sorted(point["step"] for point in path)
    assert path[-1]["x"] == pytest.approx(0.2)
