"""The comparability guard: decides which records may stand in one table, and says which field keeps others out."""

import json
from collections.abc import Sequence
from typing import Any

from tuneoff.record import flatten
from tuneoff.report.records import Run

# Fields that must agree. What a method implies (precision, quantisation, clip, tokens seen) is none of them: it is a
# labelled column. Seeds, git commit and settings are none either.
FIELDS = {
    "data": "provenance.data.fingerprint",
    "model": "config.model",
    "budget kind": "budget.kind",
    "budget value": "budget.value",
    "hardware": "provenance.hardware",
    "threads": "provenance.threads",
    "processes": "provenance.num_processes",
    "versions": "provenance.versions",
}
WEIGHTS = "base weights"


def split(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that agree in every field, the largest first.

    A run that failed before a field was known, or a prediction, joins the largest group that it does not contradict.
    """
    keys = [fingerprint(run) for run in runs]
    whole: dict[str, tuple[dict, list[Run]]] = {}
    for run, key in zip(runs, keys, strict=True):
        if None not in key.values():
            whole.setdefault(_text(key), (key, []))[1].append(run)
    ordered = sorted(whole.items(), key=lambda item: (-len(item[1][1]), item[0]))
    groups = [(key, part) for _, (key, members) in ordered for part in _by_weights(members)]
    for run, key in zip(runs, keys, strict=True):
        if None in key.values():
            _join(groups, run, key)
    return sorted((members for _, members in groups), key=lambda members: -len(members))


def fingerprint(run: Run) -> dict[str, str | None]:
    """The guarded fields of a run as text; None where the record does not know. A prediction has no hardware."""
    seen = {name: _seen(run, path) for name, path in FIELDS.items()}
    if run.predicted:
        seen.update(
            dict.fromkeys(("hardware", "threads", "versions", "budget kind", "budget value"))
        )
    return {name: None if value is None else _text(value) for name, value in seen.items()}


def _seen(run: Run, path: str) -> Any:
    """The value of a guarded field. Of a model its path; of one that is built from a config alone, that config."""
    value = run.get(path)
    if path != FIELDS["model"] or not isinstance(value, dict):
        return value
    built = value.get("config")
    return value.get("path") or (
        {"": value.get("name"), **built} if isinstance(built, dict) else None
    )


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _join(groups: list[tuple[dict, list[Run]]], run: Run, mine: dict[str, str | None]) -> None:
    for key, members in groups:
        if all(
            value is None or key[name] is None or key[name] == value for name, value in mine.items()
        ):
            members.append(run)
            return
    groups.append((mine, [run]))


def _by_weights(runs: list[Run]) -> list[list[Run]]:
    """Split runs whose base weights differ where they must not.

    The hash of the same weights differs between types, and that of random weights between seeds: so it must be one
    for each type, and for each seed where the model is not pretrained.
    """
    cells: dict[tuple, set[str]] = {}
    for run in runs:
        cells.setdefault(_cell(run), set()).add(_text(run.get("provenance.base_weights_hash")))
    if all(len(hashes - {"null"}) <= 1 for hashes in cells.values()):
        return [runs]
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(_text(run.get("provenance.base_weights_hash")), []).append(run)
    return list(parts.values())


def _cell(run: Run) -> tuple:
    return (
        _text(run.get("provenance.precision.dtype")),
        _text(run.get("config.quantization")),
        None if run.get("config.model.pretrained") is not False else run.seed,
    )


def differences(groups: Sequence[Sequence[Run]]) -> dict[str, list[str]]:
    """For each field that differs between groups, its value in each group; "unknown" alone makes no difference."""
    found: dict[str, list[str]] = {}
    for name, path in {**FIELDS, WEIGHTS: "provenance.base_weights_hash"}.items():
        if name == WEIGHTS and found:
            continue  # other data, models or versions explain other weights
        values = [_value(members, path) for members in groups]
        for key in sorted({key for value in values for key in value}):
            if len({value.get(key, "none") for value in values if value}) > 1:
                found[f"{name}: {key}" if key else name] = [
                    value.get(key, "none") if value else "unknown" for value in values
                ]
                if not key:
                    break  # another name explains what else differs
    return found


def _value(runs: Sequence[Run], path: str) -> dict[str, str]:
    """The first known value in a group, as flat keys; a plain value, and a model's name, has the key ''."""
    value = next((value for run in runs if (value := _seen(run, path)) is not None), None)
    flat = flatten(value) if isinstance(value, dict) else {} if value is None else {"": value}
    return {key: str(item) for key, item in flat.items()}
