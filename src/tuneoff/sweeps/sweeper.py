"""The sweeper: a Hydra plugin that runs a union of grids.

Every point is composed and checked, and has its folder, before the first job starts.
"""

import itertools
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from tuneoff.config import ABSENT, ConfigError, Task, bind, check_config, find_method_options
from tuneoff.jobs.work import RunFailed
from tuneoff.sweeps import job, tuning
from tuneoff.sweeps.grids import expand_grids, find_varied_keys, override_keys
from tuneoff.sweeps.progress import JobRow, describe_unfinished, format_sweep_table, label_job


@dataclass
class Point:
    """One job: its overrides, its folder, whether that holds its result, and whether it is to predict alone."""

    overrides: list[str]
    folder: Path
    before: bool
    predicts: bool

    @property
    def without_seed(self) -> tuple[str, ...]:
        """What tells its setting from others."""
        return tuple(text for text in self.overrides if not text.startswith("seed="))


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper over `hydra.sweeper.grids`, a list of grids, each times `params` and the command line."""

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping | None = None,
        grids: list | None = None,
        around: Mapping | None = None,
        **job_facts: Any,
    ):
        super().__init__(max_batch_size, dict(params or {}))
        self.grids, self.around = grids or [{}], dict(around or {})
        self.notes: list[str] = []
        self.varied: list[str] = []

    # ------------------------------------------------------------ the plan
    def points(self, arguments: list[str]) -> list[Point]:
        """Every job of the sweep, each once.

        Raises:
            ConfigError: a point that cannot be used.
        """
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        found: dict[Path, Point] = {}
        for overrides in self._expanded(loader, arguments):
            cfg = self._composed(loader, overrides)
            task = check_config(cfg)
            if task.tuned is not None:
                values, notes = tuning.tuned_overrides(task, override_keys(overrides))
                self.notes += [note for note in notes if note not in self.notes]
                overrides += values
                cfg = self._composed(loader, overrides)
            folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
            experiment = bind(task)[0]
            found.setdefault(
                folder,
                Point(
                    overrides,
                    folder,
                    job.is_done(folder, experiment),
                    experiment.task is Task.predict,
                ),
            )
        if not found:
            raise ConfigError("hydra.sweeper", ABSENT, "its grids hold no point")
        return list(found.values())

    def _composed(self, loader: ConfigLoader, overrides: list[str]) -> DictConfig:
        assert self.config is not None
        cfg = loader.load_sweep_config(self.config, overrides)
        with open_dict(cfg):
            cfg.hydra.job.num, cfg.hydra.job.id = 0, "0"
        return cfg

    def _expanded(self, loader: ConfigLoader, arguments: list[str]) -> Iterator[list[str]]:
        """The grids' points with `around` worked out: factors of the value that a key has without them."""
        parser = OverridesParser.create(loader)
        points = [list(point) for point in expand_grids(parser, self.grids, self.params, arguments)]
        given = {override.get_key_element() for override in parser.parse_overrides(arguments)}
        # Who names the methods means the option for all of them; a file's methods get it where they have it.
        for point in (
            points
            if "method" in given
            else self._where_known(loader, points, given & find_method_options())
        ):
            missing = {
                key: factors
                for key, factors in self.around.items()
                if key not in override_keys(point)
            }
            if not missing:
                yield point
                continue
            cfg = self._composed(loader, point)
            axes = [
                [
                    f"{key}={OmegaConf.select(cfg, key) * float(factor):.3g}"
                    for factor in str(factors).split(",")
                ]
                for key, factors in missing.items()
            ]
            for values in itertools.product(*axes):
                yield [*point, *values]

    def _where_known(
        self, loader: ConfigLoader, points: list[list[str]], own: set[str]
    ) -> list[list[str]]:
        """The points without those of the `own` options that their method does not have, but others of them do."""
        if not own:
            return points
        chosen = [[text for text in point if text.startswith("method=")] for point in points]
        has = {words[0]: own & set(self._composed(loader, words)) for words in chosen if words}
        for option in sorted(set().union(*has.values())):
            owners = [
                word.removeprefix("method=") for word, options in has.items() if option in options
            ]
            if len(owners) < len(has):
                self.notes.append(
                    f"{option} is for {', '.join(owners)} alone; the other methods run without it"
                )
        known = set().union(
            *has.values()
        )  # an option that none of them has is left in, and refused
        return [
            [text for text in point if not override_keys([text]) & (known - has[words[0]])]
            if words
            else point
            for point, words in zip(points, chosen, strict=True)
        ]

    # ------------------------------------------------------------ its course
    def sweep(self, arguments: list[str]) -> Any:
        """Launch every point, and print what came of each; `hydra.launcher` says where and how many at a time.

        Raises:
            ConfigError: before any folder is made, where a point cannot be used.
            RunFailed: jobs failed.
        """
        assert self.config is not None
        points = self.points(arguments)
        for note in self.notes:
            print(note, file=sys.stderr)
        self.varied = find_varied_keys([point.overrides for point in points])
        rows = [
            JobRow(
                label_job(point.overrides, self.varied), point.folder, point.before, point.predicts
            )
            for point in points
        ]
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        try:
            self._launch(points, rows)
        except job.SweepStopped as stopped:
            raise RunFailed(f"fail_fast=true: {stopped}") from None
        finally:
            print(format_sweep_table(rows))
        self._say_what_is_on_an_edge(folder)
        if failed := describe_unfinished(rows):
            raise RunFailed(failed)

    def _launch(self, points: list[Point], rows: list[JobRow]) -> None:
        assert self.launcher is not None
        began, first = time.time(), 0
        every = [[*point.overrides, *self._job_facts(point, points, began)] for point in points]
        for batch in self.split_overrides_to_chunks(every, self.max_batch_size) if every else ():
            for row, returned in zip(
                rows[first:], self.launcher.launch(batch, initial_job_idx=first), strict=False
            ):
                error = returned._return_value
                if isinstance(error, Exception):
                    row.error = f"{type(error).__name__}: {error}"
            first += len(batch)

    def _job_facts(self, point: Point, points: list[Point], began: float) -> list[str]:
        """What a job should know of its sweep. Overrides of Hydra's own part reach it under any launcher."""
        seeds = [
            int(text.removeprefix("seed="))
            for other in points
            if other.without_seed == point.without_seed
            for text in other.overrides
            if text.startswith("seed=")
        ]
        return [
            f"hydra.sweeper.jobs={len(points)}",
            f"hydra.sweeper.began={began:.3f}",
            f"hydra.sweeper.varied=[{','.join(self.varied)}]",
            f"hydra.sweeper.planned_seeds={sorted(seeds)}",
        ]

    def _say_what_is_on_an_edge(self, folder: Path) -> None:
        for found in tuning.read_tunings(str(folder)) if self.around else ():
            note = found.to_extend()
            if note:
                print(note, file=sys.stderr)
