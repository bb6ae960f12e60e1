"""Trials: the runs of a tuning sweep, as their records tell them, and those whose records tell nothing."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tuneoff.record import INCIDENTAL, RESULT, RESULTS, RUN, SCHEMA_VERSION, read_json

# Beyond this, a product of three values is infinite.
LARGEST = 1e60


class UnreadTrial(NamedTuple):
    """A run of which no result can be read: damaged, of a later version, or not come to an end."""

    folder: Path
    method: str | None  # None where the start of its record cannot be read either


def is_number(value: Any) -> bool:
    """Whether a value can lie between others, and be calculated with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST < value < LARGEST


def read_trials(folder: str) -> list[dict]:
    """Return the results below a folder that a tuning can be read from; of copies of one run only one."""
    paths = sorted(Path(folder).rglob(RESULT))
    results = [read_json(path) or {} for path in paths]
    kept: dict[str, dict] = {}
    for trial in filter(is_trial, results):
        name = name_run(trial)
        kept[name] = max(kept.get(name, trial), trial, key=rank_copy)
    return list(kept.values())


def name_run(trial: dict) -> str:
    """What tells which run a trial is of: copies of a folder, and what only writes to another place, are the same."""
    config = {key: value for key, value in trial["config"].items() if key not in INCIDENTAL}
    return json.dumps([trial.get("identity"), config], sort_keys=True)


def rank_copy(trial: dict) -> tuple[bool, str]:
    """A key by which the copy that tells the most is the highest: a finished one, then the latest."""
    return trial.get("status") == "finished", str(trial.get("finished_at"))


def is_trial(result: dict) -> bool:
    """Whether a result holds what a tuning reads, in the types that a run of this version writes."""
    config: Any = result.get("config")
    loss: Any = result.get("loss") or None
    throughput = result.get("throughput") or {}
    command = result.get("command") or []
    if result.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        return False
    if not all(isinstance(part, dict) for part in (config, loss, throughput)):
        return False
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        return False
    numbers = [throughput.get("tokens_seen") or 0, throughput.get("wall_seconds") or 0]
    if result.get("status") == "finished":
        numbers.append(loss.get("final"))
    named = isinstance(config.get("method"), str) and isinstance(config.get("seed"), int)
    return named and {"model", "data"} <= config.keys() and all(map(is_number, numbers))


@cache
def find_unread_trials(folder: str) -> list[UnreadTrial]:
    """Return the runs below a folder that `read_trials` passes over; looked for once, since each point asks."""
    folders = {path.parent for path in Path(folder).rglob(RUN)}
    folders |= {path.parent for path in Path(folder).rglob(RESULT)}
    unread = []
    for run_folder in sorted(folders):
        if not is_trial(read_json(run_folder / RESULT) or {}):
            start = read_json(run_folder / RUN) or {}
            method = start.get("method")
            named = method if isinstance(method, str) else None
            unread.append(UnreadTrial(run_folder, named))
    return unread


def describe_lost_trials(folder: str, method: str, trials: list[dict]) -> list[str]:
    """Return what to say where some of a method's trials do not tell how good their values are; nothing where all do.

    Args:
        folder: the tuning's.
        method: whose trials they are.
        trials: those that could be read.
    """
    notes = []
    unread = [trial for trial in find_unread_trials(folder) if trial.method in (method, None)]
    if unread:
        notes.append(
            f"{method}: {len(unread)} of the runs in {folder} have no result that can be read, as "
            f"{unread[0].folder}; its tuned values are those of the others"
        )
    failed = [trial for trial in trials if not has_settled(trial)]
    if failed:
        count = f"{len(failed)} of its {len(trials)} trials"
        notes.append(
            f"{method}: {count} failed or were interrupted, and say nothing of their values"
        )
    return notes


def has_settled(trial: dict) -> bool:
    """Whether trying a trial again would not change what came of it."""
    return trial.get("status") in RESULTS or trial.get("paused_after") is not None
