"""What a tuning sweep found, read from its records: each method's best setting, its cost, and whether to search on."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tuneoff.config import (
    ConfigError,
    Experiment,
    Role,
    find_settings,
    format_value,
    resolve_config,
    schemas,
)
from tuneoff.record import RESULT, read_json


@dataclass
class Tuning:
    """One method's trials on one model and data set."""

    method: str
    runs: list[dict]

    @property
    def space(self) -> dict[str, list]:
        """The rate, and every other key whose values differ between trials, with those values in order."""
        found: dict[str, list] = {}
        for key in {key for run in self.runs for key in run["config"]} - never_tuned():
            values: list = []
            for run in self.runs:
                value = run["config"].get(key)
                values += [value] if value not in values else []
            if len(values) > 1 or key == "lr":
                found[key] = sorted(
                    values,
                    key=lambda value: (
                        not is_number(value),
                        value if is_number(value) else str(value),
                    ),
                )
        return dict(sorted(found.items()))

    @property
    def best(self) -> dict[str, Any]:
        """The values of `space` with the lowest mean validation loss over seeds; empty where nothing finished."""
        keys = list(self.space)
        groups: dict[str, list[dict]] = {}
        for run in self.runs:
            groups.setdefault(format_value([run["config"].get(key) for key in keys]), []).append(
                run
            )
        winner: list[dict] = min(groups.values(), key=_score, default=[])
        return (
            {key: winner[0]["config"].get(key) for key in keys} if _score(winner) < math.inf else {}
        )

    @property
    def cost(self) -> dict[str, float]:
        """Jobs, tokens and seconds that the trials took, failed ones too."""
        spent = [run.get("throughput") or {} for run in self.runs]
        return {
            "jobs": len(self.runs),
            "tokens": sum(each.get("tokens_seen") or 0 for each in spent),
            "seconds": round(sum(each.get("wall_seconds") or 0 for each in spent), 1),
        }

    def beyond(self) -> dict[str, list[float]]:
        """For each key whose best value lies on the edge of its grid, two values that go on beyond it."""
        further = {}
        for key, best in self.best.items():
            values = [value for value in self.space[key] if is_number(value) and value > 0]
            if len(values) < 2 or best not in (values[0], values[-1]):
                continue
            inner = values[1] if best == values[0] else values[-2]
            further[key] = [float(f"{best * (best / inner) ** step:.3g}") for step in (1, 2)]
        return further

    def to_extend(self) -> str | None:
        """What to say of a best value on the edge: the command that searches beyond it."""
        further = self.beyond()
        if not further:
            return None
        before = [
            word
            for word in self.runs[0].get("command") or ["python", "train.py"]
            if word.partition("=")[0] not in ("method", *further)
        ]
        best = ", ".join(f"{key}={format_value(self.best[key])}" for key in further)
        swept = [
            f"{key}={','.join(f'{value:g}' for value in values)}" for key, values in further.items()
        ]
        return (
            f"{self.method}: its best {best} is on the edge of its grid; search on with\n  "
            f"{' '.join([*before, f'method={self.method}', *swept])}"
        )


def never_tuned() -> set[str]:
    """The settings, of all methods, that say on what and how a run is judged, or change no result."""
    keys = set(find_settings(Experiment, Role.JUDGING | Role.INCIDENTAL))
    for schema in schemas().values():
        keys |= set(find_settings(schema, Role.JUDGING | Role.INCIDENTAL))
    return keys


def is_number(value: Any) -> bool:
    """Whether a setting can lie between others."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _score(runs: Iterable[dict]) -> float:
    """Mean last validation loss of the seeds; infinite where one of them came to no result."""
    losses = [run["loss"]["final"] if run.get("status") == "finished" else math.inf for run in runs]
    return statistics.fmean(losses) if losses else math.inf


@cache
def _records(folder: str) -> list[dict]:
    found = (read_json(path) for path in sorted(Path(folder).rglob(RESULT)))
    return [run for run in found if run and isinstance(run.get("config"), dict) and run.get("loss")]


def read_tunings(folder: str) -> list[Tuning]:
    """What a sweep's folder holds, a `Tuning` for each method, model and data set."""
    groups: dict[str, list[dict]] = {}
    for run in _records(folder):
        config = run["config"]
        groups.setdefault(f"{config['method']} {config['model']} {config['data']}", []).append(run)
    return [Tuning(runs[0]["config"]["method"], runs) for runs in groups.values()]


def find_tuning(task: DictConfig) -> Tuning:
    """The tuning in the folder `tuned` of the method of a composed task, on its model and data.

    Raises:
        ConfigError: there is none with a finished run.
    """
    wanted = resolve_config(task)
    for tuning in read_tunings(task.tuned):
        config = tuning.runs[0]["config"]
        if all(config[key] == wanted[key] for key in ("method", "model", "data")) and tuning.best:
            return tuning
    raise ConfigError(
        "tuned",
        task.tuned,
        f"holds no finished run of method={task.method} on model={task.model.name} "
        f"and data={task.data.name}; tune first: python train.py -cd sweeps -cn tune",
    )


def tuned_overrides(task: DictConfig, given: Iterable[str]) -> tuple[list[str], list[str]]:
    """The tuned values as plain overrides, but for keys already `given`, and what the user should know of them."""
    tuning, given = find_tuning(task), set(given)
    notes = [
        f"{tuning.method}: {key} is given, so the tuned {key}={format_value(value)} is not used"
        for key, value in tuning.best.items()
        if key in given
    ]
    seeds = {run["config"]["seed"] for run in tuning.runs}
    if task.seed in seeds:
        notes.append(f"seed={task.seed} was tuned on; a comparison needs fresh seeds")
    edge = tuning.to_extend()
    values = [
        f"{key}={format_value(value)}" for key, value in tuning.best.items() if key not in given
    ]
    return values, notes + ([edge] if edge else [])


def tuning_facts(task: DictConfig, used: Iterable[str]) -> dict | None:
    """What a record says of its tuning: space, best, edge, cost, and the values in use that are not the best."""
    if task.tuned is None:
        return None
    tuning = find_tuning(task)
    mine = dict(override.lstrip("+").partition("=")[::2] for override in used)
    other = {
        key: mine[key]
        for key, value in tuning.best.items()
        if key in mine and mine[key] != format_value(value)
    }
    return {
        "folder": task.tuned,
        "method_cost": tuning.cost,
        "space": tuning.space,
        "best": tuning.best,
        "edge": bool(tuning.beyond()),
        "overridden": other,
    }
