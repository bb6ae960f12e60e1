"""Tuning: what a tuning sweep's records say of each method's best setting, its cost, and whether to search on."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from tuneoff.config import (
    ConfigError,
    Experiment,
    Role,
    find_settings,
    format_value,
    schemas,
)
from tuneoff.jobs.work import COMMAND
from tuneoff.sweeps.best_trials import choose_best, describe_seeds, group_losses
from tuneoff.sweeps.search_on import find_extension, write_search
from tuneoff.sweeps.trials import describe_lost_trials, is_number, read_trials
from tuneoff.sweeps.tuned_conditions import (
    BUDGET,
    PROBLEM,
    Differences,
    describe_problems,
    find_differences,
    find_root,
    list_settings,
    refuse_differences,
    settle,
)

# Words of a comparison's command line that its tuning does not have.
OF_COMPARISON = (
    "tuned",
    "tuned_anyway",
    "seed",
    "test",
    "lr",
    "dry_run",
    "hydra.sweep.dir",
)


@dataclass
class Tuning:
    """One method's trials on one model and data set, all of the same budget."""

    method: str
    trials: list[dict]

    @cached_property
    def _settings(self) -> list[dict[str, Any]]:
        """The settings of each trial, those that stand below another by their whole keys."""
        return [list_settings(trial["config"]) for trial in self.trials]

    @cached_property
    def space(self) -> dict[str, list]:
        """The rate, and every other key whose values differ between trials, with those values in order."""
        settings = self._settings
        keys: set[str] = set().union(*settings)
        fixed = never_tuned()
        space = {}
        for key in sorted(keys):
            if find_root(key) in fixed:
                continue
            values: list = []
            for trial in settings:
                value = trial.get(key)
                if value not in values:
                    values.append(value)
            if len(values) > 1 or key == "lr":
                space[key] = sorted(values, key=numbers_first)
        return space

    @cached_property
    def best(self) -> dict[str, Any]:
        """The values of `space` with the lowest mean validation loss over seeds; empty where nothing finished."""
        return choose_best(self.trials, self._settings, self.space)

    def describe_seeds(self) -> list[str]:
        """What to say where its values were not tried with the same seeds."""
        groups = group_losses(self.trials, self._settings, self.space)
        return describe_seeds(self.method, groups.values())

    @property
    def schedule(self) -> str:
        """How the trials were given their budget: halving where some of them paused for good."""
        paused = any(trial.get("paused_after") is not None for trial in self.trials)
        return "halving" if paused else "grid"

    @property
    def cost(self) -> dict[str, float]:
        """Jobs, tokens and seconds that the trials took, failed ones too."""
        throughputs = [trial.get("throughput") or {} for trial in self.trials]
        seconds = sum(each.get("wall_seconds") or 0 for each in throughputs)
        return {
            "jobs": len(self.trials),
            "tokens": sum(each.get("tokens_seen") or 0 for each in throughputs),
            "seconds": round(seconds, 1),
        }

    def find_differences(self, config: dict[str, Any]) -> Differences:
        """The settings, beside those that were tuned, in which a config is not as the trials' was."""
        return find_differences(self.trials[0]["config"], config, self.space)

    def find_extension(self) -> dict[str, list[float]]:
        """For each key whose best value lies on the edge of its grid, values that go on beyond it."""
        return find_extension(self.space, self.best)

    def describe_extension(self) -> str | None:
        """What to say of a best value on the edge: the command that searches beyond it."""
        extension = self.find_extension()
        if not extension:
            return None
        command = self.trials[0].get("command") or ["python", "train.py"]
        words = write_search(command, self.method, extension)
        best_values = self.best
        best = ", ".join(f"{key}={format_value(best_values[key])}" for key in extension)
        advice = f"{self.method}: its best {best} is on the edge of its grid; search on with"
        return f"{advice}\n  {shlex.join(words)}"


def never_tuned() -> set[str]:
    """The settings, of all methods, that say on what and how a run is judged, or change no result."""
    keys = set(find_settings(Experiment, Role.JUDGING | Role.INCIDENTAL))
    for schema in schemas().values():
        keys |= set(find_settings(schema, Role.JUDGING | Role.INCIDENTAL))
    return keys


def numbers_first(value: Any) -> tuple[bool, Any]:
    """A key to sort by: numbers in order, then everything else as text."""
    if is_number(value):
        return False, value
    return True, str(value)


@cache
def read_tunings(folder: str) -> list[Tuning]:
    """What a sweep's folder holds, a `Tuning` for each method, model, data set and budget.

    A mean over trials of different budgets would say nothing. The folder is read once, since each point asks.
    """
    groups: dict[str, list[dict]] = {}
    for result in read_trials(folder):
        config = result["config"]
        budget = settle(config)[BUDGET]
        problem = f"{config['method']} {config['model']} {config['data']} {budget}"
        groups.setdefault(problem, []).append(result)
    return [Tuning(trials[0]["config"]["method"], trials) for trials in groups.values()]


def find_tuning(wanted: dict[str, Any]) -> Tuning:
    """The tuning in the folder `tuned` of a config, of its method on its model and data.

    Of several, which have other budgets, it is the one that differs least.

    Args:
        wanted: the config as plain values.

    Raises:
        ConfigError: there is none with a finished run.
    """
    folder = wanted["tuned"]
    differing = ""
    fitting: list[Tuning] = []
    for tuning in read_tunings(folder):
        config = tuning.trials[0]["config"]
        if config["method"] != wanted["method"] or not tuning.best:
            continue
        if all(config[key] == wanted[key] for key in PROBLEM):
            fitting.append(tuning)
            continue
        differing = f"; of this method there is one with {describe_problems(config, wanted)}"
    if fitting:
        return min(fitting, key=lambda tuning: len(tuning.find_differences(wanted)))
    names = {key: wanted[key]["name"] for key in ("model", "data")}
    raise ConfigError(
        "tuned",
        folder,
        f"holds no finished run of method={wanted['method']} on model={names['model']} "
        f"and data={names['data']}{differing}; tune first: {write_tuning_command(COMMAND)}",
    )


def write_tuning_command(command: Sequence[str]) -> str:
    """Return the command that tunes for the comparison that was asked for, with the user's own arguments."""
    words = ["python", *command[:1]]
    for word in command[1:]:
        if word.partition("=")[0] not in OF_COMPARISON:
            words.append(word)
    if "-cn" in words[:-1]:
        position = words.index("-cn") + 1
        name = words[position]
        # A problem's own pair of sweeps: NAME_compare is tuned by NAME_tune.
        words[position] = name.replace("compare", "tune") if "compare" in name else "tune"
    else:
        words = [word for word in words if word not in ("-m", "--multirun")]
        words[2:2] = ["-cd", "sweeps", "-cn", "tune"]
    return shlex.join(words)


def find_tuned_overrides(
    config: dict[str, Any],
    given: Iterable[str],
) -> tuple[list[str], list[str]]:
    """The tuned values as plain overrides, but for keys already `given`, and what the user should know of them."""
    tuning = find_tuning(config)
    if not config["tuned_anyway"]:
        differences = tuning.find_differences(config)
        refuse_differences(config["tuned"], config["method"], differences)
    given = set(given)
    settings = list_settings(config)
    values = []
    notes = []
    for key, value in tuning.best.items():
        written = f"{key}={format_value(value)}"
        if key in given and settings.get(key) == value:
            continue
        if key in given:
            notes.append(f"{tuning.method}: {key} is given, so the tuned {written} is not used")
        else:
            values.append(written)
    seed = config["seed"]
    if seed in {trial["config"]["seed"] for trial in tuning.trials}:
        notes.append(f"seed={seed} was tuned on; a comparison needs fresh seeds")
    notes += describe_lost_trials(config["tuned"], tuning.method, tuning.trials)
    notes += tuning.describe_seeds()
    extension = tuning.describe_extension()
    if extension:
        notes.append(extension)
    return values, notes


def describe_tuning(config: dict[str, Any], used: Iterable[str]) -> dict | None:
    """What a record says of its tuning: space, best, edge, cost, and the values in use that are not the best.

    Args:
        config: the run's, as plain values.
        used: the run's overrides.
    """
    if config["tuned"] is None:
        return None
    tuning = find_tuning(config)
    own: dict[str, str] = {}
    for override in used:
        key, _, value = override.lstrip("+").partition("=")
        own[key] = value
    best = tuning.best
    settings = list_settings(config)
    overridden = {}
    for key, value in best.items():
        # The value counts, not how it is written: 1e-3 is 0.001.
        if key in own and settings.get(key) != value:
            overridden[key] = own[key]
    differences = tuning.find_differences(config)
    return {
        "folder": config["tuned"],
        "method_cost": tuning.cost,
        "space": tuning.space,
        "best": best,
        "edge": bool(tuning.find_extension()),
        "schedule": tuning.schedule,
        "overridden": overridden,
        "differs": {key: list(values) for key, values in differences.items()},
    }
