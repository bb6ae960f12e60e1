"""Data check: whether the sets of a sweep have the rows that its jobs need, looked at before the first job starts.

In a process of the forkserver, since what reads rows imports torch, and whoever launches jobs does not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tuneoff.config import ConfigError, Experiment, SingleSet
from tuneoff.jobs.bars import show_bars
from tuneoff.jobs.failures import Refusal
from tuneoff.jobs.processes import POLL_SECONDS, start_processes

ADVICE = {
    "validation": (
        "has no validation rows, so that nothing would judge the runs; data.validation_share=0.1 takes some of the "
        "training rows"
    ),
    "test": (
        "has no test rows, by which a comparison is judged; data.test_share=0.1 takes some of the training rows, in "
        "the tuning and in the comparison alike"
    ),
}


@dataclass(frozen=True)
class DataCheck:
    """A set, and the splits of which it must have rows. An instance is pickled into the process that looks."""

    settings: SingleSet
    splits: tuple[str, ...]
    key: str = "data."  # before the set's keys
    progress: bool = True  # whether a download shows its bar

    ranks = 1

    def run(self) -> dict:
        """Read the set.

        Raises:
            ConfigError: a split without a row.
        """
        with show_bars(self.progress):
            return self._read_rows()

    def _read_rows(self) -> dict:
        """Read the first row of each split."""
        from tuneoff.data.dataset import DataSet
        from tuneoff.data.sources import open_source
        from tuneoff.data.splits import read_examples
        from tuneoff.data.unread import UnreadParts

        try:
            source = open_source(self.settings)
            unread = UnreadParts(skips_bad_rows=self.settings.on_bad_row == "skip")
            _, examples = read_examples(self.settings, source, DataSet(), unread)
            first_rows = {}
            for split in self.splits:
                first_rows[split] = next(iter(examples.get(split, ())), None)
        except ConfigError:
            # Each job says it of itself, and the others of the sweep may have another set.
            return {"status": "finished"}
        for split, row in first_rows.items():
            if row is None:
                advice = ADVICE[split].replace("data.", self.key)
                raise ConfigError(f"{self.key}path", self.settings.path, advice)
        return {"status": "finished"}


def plan_checks(experiment: Experiment, needs: Iterable[str]) -> Iterator[DataCheck]:
    """Yield what to look at before a run; nothing where its settings say already that the rows are there.

    Args:
        experiment: the run's settings.
        needs: splits that its sweep needs, beside those of the run itself.
    """
    data = experiment.data
    for name, settings in data.members.items():
        key = f"data.sets.{name}." if data.sets else "data."
        splits = list_open_splits(experiment, settings, needs)
        if splits and not settings.ships and not settings.streaming:
            yield DataCheck(settings, splits, key, experiment.progress)


def list_open_splits(
    experiment: Experiment, settings: SingleSet, needs: Iterable[str]
) -> tuple[str, ...]:
    """The splits of which a set must have rows of its own."""
    if settings.only_for is not None:
        return ()
    splits = dict.fromkeys(needs)
    if not settings.goes_without_validation():
        splits["validation"] = None
    if experiment.test:
        splits["test"] = None
    open_splits = []
    for split in splits:
        if not settings.takes_training_rows(split) and not experiment.data.has_judge(split):
            open_splits.append(split)
    return tuple(sorted(open_splits))


def run_check(check: DataCheck) -> None:
    """Look at a set in a process of its own.

    Raises:
        ConfigError: it lacks what the sweep needs.
    """
    [process] = start_processes(check, None, None)
    try:
        while not process.has_ended():
            process.process.join(POLL_SECONDS)
    except BaseException:
        process.kill()
        raise
    report = process.report
    if report is not None and isinstance(report.cause, Refusal):
        raise report.cause.to_error()
