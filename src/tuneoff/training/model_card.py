"""Model cards: what a hub shows of a model that a run has pushed, made of the run's record."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from tuneoff.config.paths import is_hub_name
from tuneoff.record import INCIDENTAL, flatten
from tuneoff.record.secrets import mask_secrets

TAG = "tuneoff"
# Told in sentences of their own, or of this machine alone.
UNTOLD = ("model/path", "data/path", "model/config", "adapter_path")


def write_model_card(result: dict, base: str | None, is_adapter: bool) -> str:
    """Return the card as Markdown with the hub's facts at its head; it holds no secret and no path of this machine.

    Args:
        result: the record of a finished run.
        base: the base model's name on the hub; None for one that has none.
        is_adapter: whether an adapter was saved, and not the whole model.
    """
    config = mask_secrets(result["config"])
    parts = [
        _format_head(config, base, is_adapter),
        f"# {result['method']} on {config['data']['name']}",
        _describe_training(result, config, base),
        "## What came out",
        _format_table(_list_outcomes(result)),
        "## Settings",
        _format_table(_list_settings(config)),
        "## Command",
        f"```bash\n{shlex.join(_hide_paths(mask_secrets(result['command'])))}\n```",
        "## Versions",
        _format_table(result["provenance"]["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _format_head(config: dict, base: str | None, is_adapter: bool) -> str:
    """The lines that the hub reads: what the model was made of, and by which library it is loaded."""
    facts: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers"}
    if base is not None:
        facts["base_model"] = base
    data_sets = [path for path in _list_data_paths(config["data"]) if is_hub_name(path)]
    if data_sets:
        facts["datasets"] = data_sets
    facts["tags"] = [TAG, config["method"]]
    # JSON is YAML, and quotes what must be.
    lines = [f"{key}: {json.dumps(value)}" for key, value in facts.items()]
    return "\n".join(["---", *lines, "---"])


def _list_data_paths(data: dict) -> list[str]:
    """Where the rows come from, set by set."""
    sets = data.get("sets") or {"": data}
    return [str(settings["path"]) for settings in sets.values()]


def _describe_training(result: dict, config: dict, base: str | None) -> str:
    model = base or config["model"]["name"]
    revision = config["model"].get("revision") or result.get("model_commit")
    if base is not None and revision:
        model += f" (revision {revision})"
    rows = result["provenance"]["data"]["rows"]["train"]
    return (
        f"Fine-tuned by tuneoff from {model} with the method `{result['method']}` on {rows:,} "
        f"training rows of {config['data']['name']}."
    )


def _list_outcomes(result: dict) -> Iterator[tuple[str, Any]]:
    """Losses and metrics, and what training took."""
    for stage in ("initial", "final", "test"):
        loss = result["loss"].get(stage)
        if loss is not None:
            name = "test loss" if stage == "test" else f"validation loss, {stage}"
            yield name, f"{loss:.4f}"
    for name, value in flatten(result["metrics"]).items():
        yield name.replace("_", " ").replace("/", ", "), f"{value:.4f}"
    yield "trainable weights", f"{result['parameters']['trainable']:,}"
    for phase, peak in result["memory"]["peak_gib"].items():
        yield f"peak memory, {phase}, GiB", f"{peak:.2f}"


def _list_settings(config: dict) -> Iterator[tuple[str, Any]]:
    """What changes a result, but for paths."""
    for key, value in flatten(config).items():
        is_untold = key in UNTOLD or key.endswith("/path")
        if not is_untold and key.partition("/")[0] not in INCIDENTAL and value is not None:
            yield key.replace("/", "."), value


def _hide_paths(command: list[str]) -> list[str]:
    """A command with `…` for the folders of this machine before a file's or folder's own name."""
    words = []
    for word in command:
        key, equals, value = word.rpartition("=")
        if value.startswith(("/", "~")):
            value = f"…/{value.rstrip('/').rpartition('/')[2]}"
        words.append(f"{key}{equals}{value}")
    return words


def _format_table(rows: Any) -> str:
    """Two columns of Markdown."""
    lines = ["| | |", "|:--|:--|"]
    for name, value in rows:
        text = str(value).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {text} |")
    return "\n".join(lines)
