"""The closing table of a prediction, and its chart."""

from pathlib import Path

from tuneoff.predict.chart import draw_timeline
from tuneoff.predict.largest_batch import MOST_ROWS
from tuneoff.predict.prediction import category_words
from tuneoff.record.ranges import format_hours, format_range


def show_prediction(prediction: dict, folder: Path) -> None:
    """Print the closing table, and draw the step's memory into `folder`."""
    print(format_prediction(prediction, folder))
    chart = draw_timeline(prediction["timeline"], folder)
    if chart:
        print(f"chart: {chart}")
    else:
        print("no chart: pip install 'tuneoff[report]' draws the step's memory over time")


def format_prediction(prediction: dict, folder: Path) -> str:
    """The prediction in a few aligned lines."""
    cuda = prediction["cuda"]
    parameters = prediction["parameters"]
    rows = [
        ("method", prediction["method"]),
        ("trainable", f"{parameters['trainable']:,} of {parameters['total']:,}"),
        ("predicted peak GiB", _format_peaks(prediction)),
        (f"  in the {prediction['breakdown_of']}", _format_breakdown(prediction)),
        (
            "  CUDA's own, beside",
            f"rounding {cuda['rounding_gib']:.2f}, context about {cuda['context_gib']:.2f} "
            "(allowance)",
        ),
        ("needed GiB", f"{prediction['needed_gib']:.2f}"),
    ]
    batch = prediction.get("largest_batch")
    if batch:
        rows.append((f"largest batch in {batch['gib']:g} GiB", format_largest_batch(batch)))
    if "time" in prediction:
        rows += list_time_rows(prediction["time"])
    tensors = [_format_tensor(tensor) for tensor in prediction["largest_tensors"]]
    rows += _rows_under("largest tensors", tensors)
    rows += _rows_under("assumed", prediction["assumptions"])
    rows += _rows_under("not predicted", prediction["not_predicted"])
    rows.append(("record", str(folder)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def format_largest_batch(batch: dict) -> str:
    """The number of rows, or why there is none."""
    size = batch["batch_size"]
    if not size:
        return f"none: {batch.get('reason', 'a single row does not fit')}"
    return f"at least {size:,}" if size == MOST_ROWS else str(size)


def list_time_rows(time: dict) -> list[tuple[str, str]]:
    """How long steps and the run take, and what these ranges stand on."""
    work = time["work_a_step"]
    rows = [
        (f"time on {time['device']}", f"{format_range(time['step_seconds'])} s a step"),
        ("  tokens/s", format_range(time["tokens_per_second"])),
    ]
    if time["slowest_step_seconds"] != time["step_seconds"]:
        rows.append(("  slowest step", f"{format_range(time['slowest_step_seconds'])} s"))
    rows.append(("  train steps", format_hours(time)))
    moved = f"{work['tflop']:.4g} TFLOP, {work['gib_moved']:.4g} GiB moved"
    rows.append(("  work a step", f"{moved}, {work['kernels']:,} kernels"))
    rows.append(("  rates", time["rates"]))
    rows.append(("  rows", time["rows"]))
    rows.append(("  not counted", time["not_counted"]))
    return rows


def _format_peaks(prediction: dict) -> str:
    """`prepare (host) 0.10, load 0.20, …`."""
    peaks = []
    for phase, peak in prediction["peak_gib"].items():
        name = f"{phase} (host)" if phase in prediction["host_phases"] else phase
        peaks.append(f"{name} {peak:.2f}")
    return ", ".join(peaks)


def _format_breakdown(prediction: dict) -> str:
    """`weights 0.10, optimizer state 0.20, …`."""
    sizes = prediction["breakdown_gib"].items()
    return ", ".join(f"{category_words(category)} {size:.2f}" for category, size in sizes)


def _format_tensor(tensor: dict) -> str:
    """Size, how many there are alike, their name and category."""
    category = category_words(tensor["category"])
    return f"{tensor['gib']:8.3f} GiB  {tensor['tensors']:5} × {tensor['name']} [{category}]"


def _rows_under(
    name: str,
    lines: list[str],
) -> list[tuple[str, str]]:
    """A row a line, of which the first alone has the name."""
    rows = [("", line) for line in lines]
    if lines:
        rows[0] = (name, lines[0])
    return rows
