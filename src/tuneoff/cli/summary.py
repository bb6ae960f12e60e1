"""Closing tables: what a single run came to, in a few aligned lines."""

from collections.abc import Iterator
from functools import singledispatch
from pathlib import Path

from tuneoff.jobs.next_commands import list_wandb_commands
from tuneoff.jobs.work import PredictWork, TrainWork, Work
from tuneoff.record.judgement import LEAST_MEASURED_STEPS, list_row_losses


@singledispatch
def print_summary(work: Work, result: dict) -> None:
    """Print what the work came to. Each kind of work has a table of its own."""
    raise NotImplementedError(type(work).__name__)


@print_summary.register
def _(work: TrainWork, result: dict) -> None:
    print(format_run_summary(result, work.folder))


@print_summary.register
def _(work: PredictWork, result: dict) -> None:
    from tuneoff.predict import show_prediction

    show_prediction(result, work.folder)


def format_run_summary(result: dict, folder: Path) -> str:
    """What a training run came to."""
    rows = [("method", result["method"]), ("status", result["status"])]
    facts = result.get("facts", {})
    if "lr_source" in result:  # not in records of before 2026-11-26
        rows.append(("learning rate", format_rate(result)))
    rows += summarize_parameters(result["parameters"])
    if "covered_share" in facts:
        rows.append(("covered", f"{100 * facts['covered_share']:.2f} % of the model's weights"))
    rows += summarize_rows(result)
    rows.append(("validation loss", format_losses(result["loss"])))
    test_loss = result["loss"].get("test")
    if test_loss is not None:
        rows.append(("test loss", f"{test_loss:.4f}"))
    rows += summarize_metrics(result)
    rows += summarize_sets(result)
    rows.append(("throughput", format_throughput(result["throughput"])))
    memory = result["memory"]
    if memory["peak_gib"]:
        peaks = [f"{phase} {peak:.2f}" for phase, peak in memory["peak_gib"].items()]
        rows.append((f"peak GiB ({memory['measure']})", ", ".join(peaks)))
    rows += [("warning", warning) for warning in facts.get("warnings", [])]
    # The runs of an earlier command, with another tracker, may lie there, too.
    if result["config"].get("tracker", "wandb") == "wandb":
        rows += list_wandb_commands(folder)
    rows.append(("record", str(folder)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def summarize_parameters(parameters: dict) -> Iterator[tuple[str, str]]:
    """The lines on how many parameters train, as far as the run came to count them."""
    if not parameters:
        return
    total = parameters["total"]
    trainable = parameters["trainable"]
    percent = 100 * trainable / total
    yield "trainable", f"{trainable:,} of {total:,} ({percent:.2f} %)"
    if parameters["ever_trained"] != trainable:
        yield "ever trained", f"{parameters['ever_trained']:,}"


def format_rate(result: dict) -> str:
    """`0.003 (tuned)`; of a default that it was not tuned here."""
    source = result["lr_source"]
    note = "the method's default, not tuned by a sweep" if source == "default" else source
    return f"{result['config']['lr']:g} ({note})"


def summarize_rows(result: dict) -> Iterator[tuple[str, str]]:
    """The line on the examples of each split, and what `max_length` took of them."""
    data = result.get("provenance", {}).get("data", {})
    parts = []
    for losses in list_row_losses(data):
        lost = losses.describe()
        behind = f" ({lost})" if lost else ""
        parts.append(f"{losses.split} {losses.examples - losses.dropped:,}{behind}")
    if parts:
        yield "rows", ", ".join(parts)


def summarize_sets(result: dict) -> Iterator[tuple[str, str]]:
    """Of several sets a line on each: its rows, and what the run is judged by."""
    sets = result.get("provenance", {}).get("data", {}).get("sets", {})
    losses = result.get("loss_by_set", {})
    metrics = result["metrics"]
    for name, facts in sets.items():
        rows = facts["joined_rows"]
        parts = [f"train {rows['train']:,} rows"]
        for split, stages in (("validation", ("initial", "final")), ("test", ("test",))):
            ends = [losses.get(stage, {}).get(name) for stage in stages]
            if rows[split] and any(end is not None for end in ends):
                numbers = " → ".join("-" if end is None else f"{end:.4f}" for end in ends)
                parts.append(f"{split} loss {numbers} ({rows[split]:,} rows)")
        share = metrics.get("exact_match_by_set", {}).get(name)
        if share is not None:
            parts.append(f"exact match {100 * share:.1f} %")
        yield f"  {name}", ", ".join(parts)


def format_throughput(throughput: dict) -> str:
    """`2,478 tokens/s over 175 steps`; a dash where nothing was measured, or the process died."""
    speed = throughput.get("tokens_per_second")
    if not speed:
        return "-"
    steps = throughput["measured_steps"]
    text = f"{speed:,.0f} tokens/s over {steps} measured steps"
    if steps == 1:
        text = text.removesuffix("s")
    return text if steps >= LEAST_MEASURED_STEPS else f"{text}, too few for a rate"


def format_losses(loss: dict) -> str:
    """`5.6570 → 3.7840`, with a dash for the end that was not measured."""
    ends = (loss["initial"], loss["final"])
    if ends == (None, None):
        return "not measured"
    return " → ".join("-" if end is None else f"{end:.4f}" for end in ends)


def summarize_metrics(result: dict) -> Iterator[tuple[str, str]]:
    """The lines on task metrics, as far as they were measured."""
    values = result["metrics"]
    facts = result.get("metric_facts", {})
    if values.get("perplexity") is not None:
        split = facts["perplexity"]["split"]
        yield "perplexity", f"{values['perplexity']:,.2f} ({split})"
    if "exact_match" in values:
        yield "exact match", format_exact_match(values["exact_match"], facts["exact_match"])
    if "forgetting" in values:
        yield "forgetting", format_forgetting(values["forgetting"], facts["forgetting"])
    for name, difference in values.get("forgetting_by_set", {}).items():
        yield f"  {name}", f"forgetting {difference:+.4f} nats per token"


def format_exact_match(share: float, facts: dict) -> str:
    """`62.5 % (5 of 8 test rows, 3 s)`."""
    hits = facts["scores"].count("1")
    counted = f"{hits} of {facts['rows']} {facts['split']} rows"
    text = f"{100 * share:.1f} % ({counted}, {facts['seconds']:.0f} s)"
    cut_off = facts.get("cut_off", 0)
    if cut_off:
        text += f"; {cut_off} of {facts['rows']} answers were cut off at max_new_tokens={facts['max_new_tokens']}"
    timed_out = facts.get("timed_out", 0)
    if timed_out:
        text += f"; on {timed_out} of {facts['rows']} rows {facts['extractor']} took too long, which counts as wrong"
    return text


def format_forgetting(difference: float, facts: dict) -> str:
    """`+0.0312 nats per token of stdlib (3.1000 → 3.1312)`."""
    losses = f"{facts['before']:.4f} → {facts['after']:.4f}"
    return f"{difference:+.4f} nats per token of {facts['data']} ({losses})"
