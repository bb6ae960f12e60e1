"""The plan of a sweep: its points, each composed and checked, with its folder, before the first job starts."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig
from tqdm import tqdm

from tuneoff.config import (
    ABSENT,
    ConfigError,
    Experiment,
    Task,
    bind_settings,
    check_settings,
    format_value,
    refuse_second_method,
)
from tuneoff.config.set_lists import write_as_choices
from tuneoff.jobs.data_check import DataCheck, plan_checks
from tuneoff.jobs.devices import check_enough_devices
from tuneoff.jobs.work import WORKS, PredictWork, Work
from tuneoff.sweeps import tuning
from tuneoff.sweeps.bases import find_base
from tuneoff.sweeps.composition import ComposedPoint, Composer, select_task_overrides
from tuneoff.sweeps.foreign_options import drop_foreign_options
from tuneoff.sweeps.grids import expand_grids, override_keys
from tuneoff.sweeps.launchers import is_local
from tuneoff.sweeps.options import KEY, SweepOptions
from tuneoff.sweeps.sobol import list_sobol_points, refuse_bad_space, scale_value
from tuneoff.sweeps.whole_sweep import refuse_lost_value, refuse_own_values

SEED = "seed="


@dataclass(frozen=True)
class Budget:
    """How long a job trains."""

    kind: str  # epochs, max_steps, max_tokens or max_seconds
    value: float
    most_tokens: int | None  # padding included; None where only the data or the machine show it


@dataclass
class Point:
    """One job: its overrides, its folder, whether that holds its result, what kind of work it is, and `rerun`."""

    overrides: list[str]
    folder: Path
    is_done: bool
    work_type: type[Work]
    rerun: bool = False
    identity: str = ""  # which run it is
    seed: int = 0  # as composed: it may be written as an interpolation
    budget: Budget | None = None  # of a training
    prediction: PredictWork | None = None  # of a training whose device is named

    @property
    def setting(self) -> tuple[str, ...]:
        """What tells its setting from others: all but the seed."""
        return tuple(text for text in self.overrides if not text.startswith(SEED))


def find_budget(experiment: Experiment) -> Budget:
    """The budget of a job, and the tokens that it takes at most."""
    kind, value = experiment.budget
    if kind == "max_tokens":
        return Budget(kind, value, int(value))
    if kind != "max_steps":
        return Budget(kind, value, None)
    rows = experiment.batch_size * experiment.gradient_accumulation_steps * experiment.num_processes
    return Budget(kind, value, int(value) * rows * experiment.max_length)


class Plan:
    """Makes the points of a sweep, and gathers notes on what the user should know of them."""

    def __init__(self, loader: ConfigLoaderImpl, sweep_config: DictConfig, options: SweepOptions):
        if options.sobol:
            refuse_bad_space(options.sobol)
        self.options = options
        self.sweep_config = sweep_config
        self.composer = Composer(loader, sweep_config)
        self.notes: list[str] = []
        self.data_checks: list[DataCheck] = []
        self._pushing: dict[str, Path] = {}  # which job's folder is uploaded to a name on the hub
        self.shows_bar = bool(sweep_config.get("progress", True))
        self.is_local = is_local(sweep_config.hydra)

    def make_points(self, arguments: list[str]) -> list[Point]:
        """Every job of the sweep, each once.

        Raises:
            ConfigError: a point that cannot be used.
        """
        points: dict[Path, Point] = {}
        expanded = list(self.expand(arguments))
        # A small plan is made before the bar would appear; where nobody looks (None), there is none.
        hidden = None if self.shows_bar else True
        bar = tqdm(expanded, "planning", unit="job", leave=False, delay=1, disable=hidden)
        for overrides in bar:
            point = self.make_point(overrides)
            self.refuse_shared_folder(points.setdefault(point.folder, point), point)
        if not points:
            raise ConfigError(KEY, ABSENT, "its grids hold no point")
        return order_by_seed(list(points.values()))

    def make_point(self, overrides: list[str]) -> Point:
        """Compose and check a point, with the tuned values that it asks for."""
        composed, experiment = self._compose_checked(overrides)
        if experiment.tuned is not None:
            config = composed.config
            values, notes = tuning.find_tuned_overrides(config, override_keys(overrides))
            self.add_notes(notes)
            overrides = [*overrides, *values]
            composed, experiment = self._compose_tuned(experiment.tuned, overrides, values)
        if self.is_local:
            check_enough_devices(experiment.num_processes)
        identity = self.composer.identify(composed)
        folder = self.composer.name_folder(composed, identity)
        self.refuse_shared_push(experiment.push, folder)
        work_type = WORKS[experiment.task]
        is_done = work_type.is_done(folder, experiment)
        if experiment.task is Task.train and not is_done:
            for check in plan_checks(experiment, self.options.needs):
                self.add_data_check(check)
        point = Point(
            overrides, folder, is_done, work_type, experiment.rerun, identity, experiment.seed
        )
        if experiment.task is Task.train:
            point.budget = find_budget(experiment)
            if experiment.device is not None and not is_done:
                point.prediction = self._plan_prediction(overrides, folder)
        return point

    def _compose_tuned(
        self, folder: str, overrides: list[str], tuned_values: list[str]
    ) -> tuple[ComposedPoint, Experiment]:
        """As `_compose_checked`, of overrides of which some come from a tuning.

        Raises:
            ConfigError: also a tuned value that cannot be, which nobody has typed.
        """
        try:
            return self._compose_checked(overrides)
        except ConfigError as error:
            if error.key not in override_keys(tuned_values):
                raise
            written = f"{error.key}={format_value(error.value)}"
            allowed = f"its best trial has {written}: {error.allowed}"
            raise ConfigError("tuned", folder, allowed) from error

    def _compose_checked(self, overrides: list[str]) -> tuple[ComposedPoint, Experiment]:
        """What a point's overrides compose to, once it is known to bind."""
        own_overrides = select_task_overrides(overrides)
        refuse_second_method(own_overrides)
        composed = self.composer.compose_point(overrides)
        experiment, _ = check_settings(composed.settings, own_overrides)
        refuse_own_values(composed.config, self.sweep_config)
        return composed, experiment

    def _plan_prediction(self, overrides: list[str], folder: Path) -> PredictWork:
        """The work of predicting what a job takes."""
        composed = self.composer.compose_point([*overrides, "task=predict"])
        experiment, method = bind_settings(composed.settings)
        return PredictWork(experiment, method, folder, {})

    def refuse_shared_folder(self, first: Point, second: Point) -> None:
        """Refuse that two jobs have one folder, where the second would be taken for the first, and not run.

        Raises:
            ConfigError: they are not the same run, or not in all that was written.
        """
        if first.identity != second.identity:
            allowed = f"must tell all jobs apart, and two would be in {first.folder}; ${{method}}/${{identity:}} does"
            raise ConfigError("hydra.sweep.subdir", self.composer.subdir, allowed)
        refuse_lost_value(first.overrides, second.overrides)

    def refuse_shared_push(self, push: str | None, folder: Path) -> None:
        """Refuse that two jobs upload to one place.

        Raises:
            ConfigError: another job's model would be replaced.
        """
        if push is not None and self._pushing.setdefault(push, folder) != folder:
            allowed = (
                "two jobs would upload to it; push='OWNER/NAME-${method}-${seed}' tells them apart"
            )
            raise ConfigError("push", push, allowed)

    def add_data_check(self, check: DataCheck) -> None:
        """Keep each look at a set once."""
        if check not in self.data_checks:
            self.data_checks.append(check)

    def add_notes(self, notes: list[str]) -> None:
        """Keep each note once."""
        self.notes += [note for note in notes if note not in self.notes]

    # ------------------------------------------------------------ the grids
    def expand(self, arguments: list[str]) -> Iterator[list[str]]:
        """The overrides of each point, with `around` worked out: factors of the value that a key has without them."""
        parser = self.composer.parser
        options = self.options
        expanded = expand_grids(parser, options.grids, options.params, arguments)
        points = [write_as_choices(point) for point in expanded]
        given = {override.get_key_element() for override in parser.parse_overrides(arguments)}
        # Who names the methods means the option for all of them; a file's methods get it where they have it.
        if "method" not in given:
            points, notes = drop_foreign_options(points, given, self.composer)
            self.notes += notes
        for point in points:
            for placed in self.expand_around(point):
                yield from self.add_sobol_points(placed)

    def expand_around(self, point: list[str]) -> Iterator[list[str]]:
        """A point times the factors of each key of `around` that it does not set."""
        given = override_keys(point)
        keys = [key for key in self.options.around if key not in given]
        if not keys:
            yield point
            return
        task = self.composer.compose_task(point)
        axes = []
        for key in keys:
            factors = self.options.around[key]
            base = find_base(f"{KEY}.around.{key}", factors, task, key)
            axes.append([f"{key}={scale_value(base, factor)}" for factor in factors])
        for values in itertools.product(*axes):
            yield [*point, *values]

    def add_sobol_points(self, point: list[str]) -> Iterator[list[str]]:
        """A point times those of the `sobol` space, for the keys that it does not set."""
        if not self.options.sobol:
            yield point
            return
        task = self.composer.compose_task(point)
        for values in list_sobol_points(self.options.sobol, task, override_keys(point)):
            yield [*point, *values]


def order_by_seed(points: list[Point]) -> list[Point]:
    """One seed after another, so that a sweep which is cut short has every method equally often."""
    seeds = list(dict.fromkeys(point.seed for point in points))
    return sorted(points, key=lambda point: seeds.index(point.seed))
