"""Comparability: which records may stand in one table, and which field keeps others out."""

import json
from collections.abc import Sequence
from typing import Any

from tuneoff.record import flatten
from tuneoff.report.records import Run
from tuneoff.report.text import cut_name

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
    "sharding": "provenance.sharding",
    "jobs a device": "provenance.jobs_per_device",
    "TF32": "provenance.precision.tf32",
    "deterministic": "provenance.deterministic",
    "compiled": "config.compile",
    "NEFTune": "config.neftune_alpha",
    "versions": "provenance.versions",
}
NOT_OF_A_PREDICTION = (
    "hardware",
    "threads",
    "versions",
    "budget kind",
    "budget value",
    "jobs a device",
    "TF32",
    "deterministic",
    "compiled",
)
# What runs did before these fields were recorded.
BEFORE_RECORDED = {
    "provenance.sharding": "none",
    "provenance.jobs_per_device": 1,
    "provenance.precision.tf32": False,
    "provenance.deterministic": False,
    "config.compile": False,
    "config.neftune_alpha": 0.0,
}
BASE_WEIGHTS = "provenance.base_weights_hash"

# The guarded fields of a run as text; None where the record does not know.
Fingerprint = dict[str, str | None]
# The fields that differ between groups, each with its value in every group.
Differences = dict[str, list[str]]


def split_comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """Return groups of runs that agree in every field, the largest first.

    A run that failed before a field was known, or a prediction, joins the largest group that it does not contradict.
    """
    complete: dict[str, list[Run]] = {}
    fingerprints: dict[str, Fingerprint] = {}
    incomplete: list[tuple[Fingerprint, Run]] = []
    for run in runs:
        fingerprint = make_fingerprint(run)
        if None in fingerprint.values():
            incomplete.append((fingerprint, run))
            continue
        key = canonical_json(fingerprint)
        fingerprints[key] = fingerprint
        complete.setdefault(key, []).append(run)
    groups: list[tuple[Fingerprint, list[Run]]] = []
    largest_first = sorted(complete, key=lambda key: (-len(complete[key]), key))
    for key in largest_first:
        for members in _split_by_weights(complete[key]):
            groups.append((fingerprints[key], members))
    for fingerprint, run in incomplete:
        _join_group(groups, run, fingerprint)
    return sorted((members for _, members in groups), key=lambda members: -len(members))


def make_fingerprint(run: Run) -> Fingerprint:
    """Return the guarded fields of a run as text. A prediction has no hardware and no budget."""
    fingerprint: Fingerprint = {}
    for name, path in FIELDS.items():
        value = _guarded_value(run, path)
        if value is None or (run.predicted and name in NOT_OF_A_PREDICTION):
            fingerprint[name] = None
        else:
            fingerprint[name] = canonical_json(value)
    return fingerprint


def canonical_json(value: object) -> str:
    """Return the same text for the same content, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)


def _guarded_value(run: Run, path: str) -> Any:
    """The value of a guarded field. Of a model its path and revision; of a shape without a path, its config."""
    value = run.get(path)
    if value is None and run.section("provenance"):
        value = BEFORE_RECORDED.get(path)
    if path != FIELDS["model"] or not isinstance(value, dict):
        return value
    if value.get("path"):
        revision = value.get("revision")
        return f"{value['path']}@{revision}" if revision else value["path"]
    built = value.get("config")
    return {"": value.get("name"), **built} if isinstance(built, dict) else None


def _join_group(
    groups: list[tuple[Fingerprint, list[Run]]], run: Run, fingerprint: Fingerprint
) -> None:
    """Add a run to the first group that it does not contradict, or as a group of its own."""
    for group_fingerprint, members in groups:
        if not _contradict(group_fingerprint, fingerprint):
            members.append(run)
            return
    groups.append((fingerprint, [run]))


def _contradict(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether a field is known in both, and differs."""
    both_known = [name for name in FIELDS if None not in (first[name], second[name])]
    return any(first[name] != second[name] for name in both_known)


def _split_by_weights(runs: list[Run]) -> list[list[Run]]:
    """Split runs whose base weights differ where they must not.

    The hash of the same weights differs between types, and that of random weights between seeds: so it must be one
    for each type, and for each seed where the model is not pretrained.
    """
    hashes_by_kind: dict[tuple, set[str]] = {}
    by_hash: dict[str, list[Run]] = {}
    for run in runs:
        weights_hash = canonical_json(run.get(BASE_WEIGHTS))
        hashes_by_kind.setdefault(_weights_kind(run), set()).add(weights_hash)
        by_hash.setdefault(weights_hash, []).append(run)
    if all(len(hashes - {"null"}) <= 1 for hashes in hashes_by_kind.values()):
        return [runs]
    return list(by_hash.values())


def _weights_kind(run: Run) -> tuple:
    """Runs of one kind have base weights of one hash."""
    dtype = canonical_json(run.get("provenance.precision.dtype"))
    quantization = canonical_json(run.get("config.quantization"))
    random_seed = run.seed if run.get("config.model.pretrained") is False else None
    return (dtype, quantization, random_seed)


def find_differences(groups: Sequence[Sequence[Run]]) -> Differences:
    """Return for each field that differs between groups its value in each; "unknown" alone makes no difference."""
    differing: Differences = {}
    for name, path in FIELDS.items():
        differing.update(_compare_field(name, groups, path))
    if not differing:  # other data, models or versions explain other weights
        differing.update(_compare_field("base weights", groups, BASE_WEIGHTS))
    return differing


def _compare_field(name: str, groups: Sequence[Sequence[Run]], path: str) -> Differences:
    """The entries of a field that differ between groups, by their name."""
    values = [_first_known(members, path) for members in groups]
    keys = {key for value in values for key in value}
    differing: Differences = {}
    for key in sorted(keys):
        known = {value.get(key, "none") for value in values if value}
        if len(known) < 2:
            continue
        texts = [value.get(key, "none") if value else "unknown" for value in values]
        if not key:
            return {name: texts}  # another name explains what else differs
        differing[f"{name}: {key}"] = texts
    return differing


def _first_known(runs: Sequence[Run], path: str) -> dict[str, str]:
    """The first known value in a group, as flat keys; a plain value, and a model's name, has the key ''."""
    for run in runs:
        value = _guarded_value(run, path)
        if isinstance(value, dict):
            flat = flatten(value)
            return {key: cut_name(str(item)) for key, item in flat.items()}
        if value is not None:
            return {"": cut_name(str(value))}
    return {}
