"""The closing table of a run: what it came to, in a few aligned lines."""

from collections.abc import Iterator
from pathlib import Path


def format_run_summary(result: dict, folder: Path) -> str:
    """What a run came to, in a few aligned lines."""
    parameters, loss, memory = result["parameters"], result["loss"], result["memory"]
    rows = [("method", result["method"]), ("status", result["status"])]
    if parameters:
        share = 100 * parameters["trainable"] / parameters["total"]
        rows.append(
            ("trainable", f"{parameters['trainable']:,} of {parameters['total']:,} ({share:.2f} %)")
        )
        if parameters["ever_trained"] != parameters["trainable"]:
            rows.append(("ever trained", f"{parameters['ever_trained']:,}"))
    shown = [f"{loss[key]:.4f}" if loss[key] is not None else "-" for key in ("initial", "final")]
    rows.append(("validation loss", " → ".join(shown)))
    rows += summarize_metrics(result)
    speed = result["throughput"]["tokens_per_second"]
    rows.append(("throughput", f"{speed:,.0f} tokens/s" if speed else "-"))
    peaks = ", ".join(f"{phase} {peak:.2f}" for phase, peak in memory["peak_gib"].items())
    rows.append((f"peak GiB ({memory['measure']})", peaks))
    rows.append(("record", str(folder)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def summarize_metrics(result: dict) -> Iterator[tuple[str, str]]:
    """The closing table's lines on task metrics, as far as they were measured."""
    values, facts = result["metrics"], result.get("metric_facts", {})
    if values.get("perplexity") is not None:
        yield "perplexity", f"{values['perplexity']:,.2f} ({facts['perplexity']['split']})"
    if "exact_match" in values:
        on = facts["exact_match"]
        yield (
            "exact match",
            (
                f"{100 * values['exact_match']:.1f} % ({on['scores'].count('1')} of {on['rows']} "
                f"{on['split']} rows, {on['seconds']:.0f} s)"
            ),
        )
    if "forgetting" in values:
        on = facts["forgetting"]
        yield (
            "forgetting",
            (
                f"{values['forgetting']:+.4f} nats per token of {on['data']} "
                f"({on['before']:.4f} → {on['after']:.4f})"
            ),
        )
