"""A single run from the command line: in this process, or as the launching process of its ranks."""
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tuneoff import entry, isolate
from tuneoff.child import log_as_rank
from tuneoff.config import ABSENT, ConfigError, Experiment, Task, bind
from tuneoff.ranks import launched, this_rank
from tuneoff.record import RESULT, AlreadyDone, read_json
from tuneoff.share import its_share


def run(cfg: DictConfig, folder: Path) -> dict:
    """Train what `cfg` describes into `folder` and print the closing table.

    Raises:
        ConfigError: a setting that cannot be used.
        RunFailed: the run ended as anything but finished.
    """
    experiment, method = bind(cfg)
    start = entry.started(cfg, None)
    if experiment.task is Task.predict:
        from tuneoff.predict import show
        result = entry.perform(experiment, method, folder, start)
        show(result, folder)
        return result
    try:
        if launched() == 1 < experiment.num_processes:
            result = in_ranks(experiment, method, folder, start)
        else:
            if launched() > 1:
                from tuneoff import tether  # noqa: F401 (a launcher that is killed would leave its ranks behind)
            result = entry.perform(experiment, method, folder, start)
    except AlreadyDone:  # under resume=auto there is nothing left to do
        result = read_json(folder / RESULT) or {}
    if this_rank() == 0:
        print(closing_table(result, folder))
    if result["status"] != "finished":
        error = result["error"]
        raise entry.RunFailed(f"{result['status']}: {error['type']}: {error['message']} ({folder / RESULT})")
    return result


def in_ranks(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """Train in `num_processes` processes, started from here; returns the result.

    Raises:
        ConfigError: what only the loaded model or data show to be wrong.
    """
    start = {**start, "method": experiment.method, "seed": experiment.seed}
    with its_share(1, experiment.num_processes):
        isolate.run(partial(as_rank, experiment, method, folder, start), folder, start, isolate.Limits(),
                    ranks=experiment.num_processes)
    result = read_json(folder / RESULT) or {}
    error = result.get("error") or {}
    if error.get("type") == ConfigError.__name__:
        raise ConfigError(error["message"].partition(": ")[0], ABSENT, error["message"].partition(": ")[2])
    return result


def as_rank(experiment: Experiment, method: Any, folder: Path, start: dict) -> dict:
    """`perform` as a rank of a single run, with the log that a single run has."""
    log_as_rank(logging.INFO, logging.FileHandler(folder / "run.log"))
    return entry.perform(experiment, method, folder, start)


def closing_table(result: dict, folder: Path) -> str:
    """What a run came to, in a few aligned lines."""
    parameters, loss, memory = result["parameters"], result["loss"], result["memory"]
    rows = [("method", result["method"]), ("status", result["status"])]
    if parameters:
        share = 100 * parameters["trainable"] / parameters["total"]
        rows.append(("trainable", f"{parameters['trainable']:,} of {parameters['total']:,} ({share:.2f} %)"))
        if parameters["ever_trained"] != parameters["trainable"]:
            rows.append(("ever trained", f"{parameters['ever_trained']:,}"))
    shown = [f"{loss[key]:.4f}" if loss[key] is not None else "-" for key in ("initial", "final")]
    rows.append(("validation loss", " → ".join(shown)))
    rows += metric_rows(result)
    speed = result["throughput"]["tokens_per_second"]
    rows.append(("throughput", f"{speed:,.0f} tokens/s" if speed else "-"))
    peaks = ", ".join(f"{phase} {peak:.2f}" for phase, peak in memory["peak_gib"].items())
    rows.append((f"peak GiB ({memory['measure']})", peaks))
    rows.append(("record", str(folder)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def metric_rows(result: dict) -> Iterator[tuple[str, str]]:
    """The closing table's lines on task metrics, as far as they were measured."""
    values, facts = result["metrics"], result.get("metric_facts", {})
    if values.get("perplexity") is not None:
        yield "perplexity", f"{values['perplexity']:,.2f} ({facts['perplexity']['split']})"
    if "exact_match" in values:
        on = facts["exact_match"]
        yield "exact match", (f"{100 * values['exact_match']:.1f} % ({on['scores'].count('1')} of {on['rows']} "
                              f"{on['split']} rows, {on['seconds']:.0f} s)")
    if "forgetting" in values:
        on = facts["forgetting"]
        yield "forgetting", (f"{values['forgetting']:+.4f} nats per token of {on['data']} "
                             f"({on['before']:.4f} → {on['after']:.4f})")
