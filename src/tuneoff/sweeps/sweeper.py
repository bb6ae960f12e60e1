"""The sweeper: a Hydra plugin that runs a union of grids.

Every point is composed and checked, and has its folder, before the first job starts.
"""

import sys
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from tuneoff.jobs.data_check import DataCheck, run_check
from tuneoff.jobs.failures import RunFailed
from tuneoff.jobs.next_commands import describe_results
from tuneoff.record.files import write_atomically
from tuneoff.record.secrets import mask_secrets
from tuneoff.sweeps import halving, tuning
from tuneoff.sweeps.forecast import describe_plan, list_jobs
from tuneoff.sweeps.grids import find_varied_keys
from tuneoff.sweeps.job import SweepStopped
from tuneoff.sweeps.job_costs import measure_work
from tuneoff.sweeps.options import read_options
from tuneoff.sweeps.parts import plan_parts
from tuneoff.sweeps.plan import Plan, Point
from tuneoff.sweeps.progress import JobRow, describe_unfinished, format_sweep_table, label_job
from tuneoff.sweeps.time_forecast import forecast_sweep
from tuneoff.sweeps.trials import find_unread_trials


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper over `hydra.sweeper.grids`, a list of grids, each times `params` and the command line."""

    def __init__(self, **options: Any):
        """Take the options of `conf/hydra/sweeper/grids.yaml`.

        Raises:
            ConfigError: one that cannot be used.
        """
        self.options = read_options(options)
        super().__init__(self.options.max_batch_size, self.options.params)
        self.data_checks: list[DataCheck] = []

    def points(self, arguments: list[str]) -> list[Point]:
        """Every job of the sweep, each once; what the user should know of them is printed.

        Raises:
            ConfigError: a point that cannot be used.
        """
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        plan = Plan(loader, self.config, self.options)
        points = plan.make_points(arguments)
        if halving.is_halving(self.config.get(halving.KEY), points):
            halving.refuse_unfair(points)
        self.data_checks = plan.data_checks
        for note in plan.notes:
            print(note, file=sys.stderr)
        return points

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every point, and print what came of each; `hydra.launcher` says where and how many at a time.

        With `dry_run=true` the jobs are listed, and none is launched.

        Raises:
            ConfigError: before any folder is made, where a point cannot be used.
            RunFailed: jobs failed.
        """
        assert self.config is not None
        points = self.points(arguments)
        for check in self.data_checks:
            run_check(check)
        parts = plan_parts(points, self.config.get(halving.KEY))
        print(describe_plan(points, parts), file=sys.stderr)
        for line in forecast_sweep(parts):
            print(line, file=sys.stderr)
        if self.config.get("dry_run"):
            print("\n".join(list_jobs(points, parts)))
            return
        varied = find_varied_keys([point.overrides for point in points])
        rows = []
        for point in points:
            label = label_job(point.overrides, varied)
            row = JobRow(label, point.folder, point.is_done, point.work_type, rerun=point.rerun)
            rows.append(row)
        folder = Path(self.config.hydra.sweep.dir)
        self.write_config(folder)
        try:
            self.launch_points(points, varied, rows)
        except SweepStopped as stopped:
            raise RunFailed(f"fail_fast=true: {stopped}") from None
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            raise
        finally:
            print(format_sweep_table(rows), flush=True)
            if self.options.around:
                print_edges(folder)
            print("\n".join(describe_results(folder)))
        unfinished = describe_unfinished(rows)
        if unfinished:
            raise RunFailed(unfinished)

    def write_config(self, folder: Path) -> None:
        """Write the sweep's own config, without its secrets, whole: another sweep into this folder may read it."""
        folder.mkdir(parents=True, exist_ok=True)
        config = mask_secrets(OmegaConf.to_container(self.config, resolve=False))
        write_atomically(folder / "multirun.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))

    def launch_points(
        self,
        points: list[Point],
        varied: list[str],
        rows: list[JobRow],
    ) -> None:
        """Launch the points: each to its end, or by successive halving."""
        assert self.config is not None
        if halving.is_halving(self.config.get(halving.KEY), points):
            self.launch_rungs(points, varied, rows)
        else:
            self.launch_jobs(add_sweep_facts(points, varied), rows)

    def launch_rungs(
        self,
        points: list[Point],
        varied: list[str],
        rows: list[JobRow],
    ) -> None:
        """Launch the points by successive halving, one rung of all methods after another."""
        row_of = {row.folder: row for row in rows}
        rungs = halving.plan_rungs(halving.count_candidates(points))
        budgets = halving.sum_budgets(rungs)
        print(
            f"halving: {rungs[0].candidates} candidates of each method, {budgets:g} whole budgets in all instead of "
            f"{rungs[0].candidates}",
            file=sys.stderr,
        )
        for launch in halving.list_launches(points):
            if launch.note:
                print(launch.note, file=sys.stderr)
            jobs = add_sweep_facts(launch.points, varied)
            if launch.share < 1:
                jobs = [[*job, f"stop_after={launch.share:g}"] for job in jobs]
            self.launch_jobs(jobs, [row_of[point.folder] for point in launch.points])

    def launch_jobs(
        self,
        jobs: list[list[str]],
        rows: list[JobRow],
    ) -> None:
        """Give the launcher the jobs' overrides, and keep in their rows what went wrong outside the runs."""
        assert self.launcher is not None
        first = 0
        for batch in self.split_overrides_to_chunks(jobs, self.max_batch_size):
            returns = self.launcher.launch(batch, initial_job_idx=first)
            for row, job_return in zip(rows[first:], returns, strict=False):
                error = job_return._return_value
                if isinstance(error, Exception):
                    row.error = f"{type(error).__name__}: {error}"
            first += len(batch)


def add_sweep_facts(
    points: list[Point],
    varied: list[str],
) -> list[list[str]]:
    """The overrides of each point, and what its job should know of its sweep.

    Overrides of Hydra's own part reach a job under any launcher.
    """
    seeds: dict[tuple[str, ...], list[int]] = {}
    for point in points:
        seeds.setdefault(point.setting, []).append(point.seed)
    facts = [
        f"hydra.sweeper.jobs={len(points)}",
        f"hydra.sweeper.varied=[{','.join(varied)}]",
    ]
    works = measure_work([point.budget for point in points])
    jobs_left = 0
    work_left = 0.0
    for point, work in zip(points, works, strict=True):
        if not point.is_done:
            jobs_left += 1
            work_left += work
    jobs = []
    for point, work in zip(points, works, strict=True):
        if not point.is_done:
            jobs_left -= 1
            work_left -= work
        own = [
            f"hydra.sweeper.planned_seeds={sorted(seeds[point.setting])}",
            f"hydra.sweeper.work={work:g}",
            f"hydra.sweeper.jobs_left={jobs_left}",
            f"hydra.sweeper.work_left={work_left:g}",
        ]
        jobs.append([*point.overrides, *facts, *own])
    return jobs


def print_edges(folder: Path) -> None:
    """Say which best values lie on the edge of their grid, and how to search on."""
    # Of what was there before the sweep.
    tuning.read_tunings.cache_clear()
    find_unread_trials.cache_clear()
    for trials in tuning.read_tunings(str(folder)):
        note = trials.describe_extension()
        if note:
            print(note, file=sys.stderr)
