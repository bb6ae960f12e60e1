"""The recorder of the processes beside the first one, which writes nothing."""

from pathlib import Path

from tuneoff.record.recorder import Recorder, ResumePoint


class SilentRecorder(Recorder):
    """What the other processes of a run have in place of its recorder: the same calls, and nothing is written."""

    begun = True

    def __init__(self, folder: Path):
        self.folder = folder
        self.run: dict = {}

    def start(self, run: dict, resumed: ResumePoint | None = None) -> None:
        """Keep what a record would begin with."""
        self.run = run

    def describe(self, more: dict) -> None:
        """Keep what a record would add."""
        self.run.update(more)

    def restore(self, state: dict) -> None:
        """Keep nothing: the first rank's clock counts."""

    def wall_seconds(self) -> float:
        """Return 0: the first rank's clock counts."""
        return 0.0

    def log(self, line: dict) -> None:
        """Write nothing."""

    def alive(self) -> None:
        """Write nothing."""

    def keep_answers(self, lines: list[dict]) -> None:
        """Write nothing."""

    def keep_benchmarks(self, lines: list[dict]) -> None:
        """Write nothing."""

    def finish(self, status: str, measured: dict, error: dict | None = None) -> dict:
        """Return the result that a record would hold."""
        return {**self.run, "status": status, "error": error, **measured}

    def close(self) -> None:
        """Close nothing."""
