"""Failures: how a job can end without a result, and what its processes report of that. Imports no torch."""

from dataclasses import dataclass

from tuneoff.config import ABSENT, ConfigError, format_value
from tuneoff.distributed.stop import StopSignal
from tuneoff.record import AlreadyDone, Busy, NeverBegan, describe_error

MOST_CHARACTERS = 10_000  # of each text that a process reports


class RunFailed(RuntimeError):
    """A run, or a job of a sweep, ended without a usable result; its record says why."""


class JobFailed(RuntimeError):
    """What happened to work that leaves no result to say it."""


class Killed(RuntimeError):
    """The job's process ended without a report."""


class TimedOut(RuntimeError):
    """The job ran into a limit of time, and was stopped."""


@dataclass(frozen=True)
class Refusal:
    """A ConfigError on its way to another process, its value as it is written on the command line."""

    key: str
    value: str | None  # None: the error names no value
    allowed: str

    @classmethod
    def from_error(cls, error: ConfigError) -> "Refusal":
        """What another process needs to raise the same error."""
        value = None if error.value is ABSENT else format_value(error.value)
        return cls(error.key, value, error.allowed)

    def to_error(self) -> ConfigError:
        """The same error, with the same sentence."""
        value = ABSENT if self.value is None else self.value
        return ConfigError(self.key, value, self.allowed)


@dataclass(frozen=True)
class FailureReport:
    """What a job's process reports of its own end.

    Attributes:
        status: of the run, as its record has it.
        error: type, message and traceback, as the record has them.
        cause: what the launching process may have to raise itself, if the failure is of such a kind.
    """

    status: str
    error: dict[str, str]
    cause: Busy | AlreadyDone | Refusal | None = None

    @classmethod
    def from_error(cls, error: BaseException) -> "FailureReport":
        """The report on an exception that ended the work."""
        cause: Busy | AlreadyDone | Refusal | None = None
        if isinstance(error, ConfigError):
            cause = Refusal.from_error(error)
        elif isinstance(error, Busy | AlreadyDone):
            cause = error
        if isinstance(error, NeverBegan):
            return cls(error.status, cut_texts(error.error))
        status = "interrupted" if isinstance(error, StopSignal) else "failed"
        return cls(status, cut_texts(describe_error(error)), cause)

    @classmethod
    def from_result(cls, result: dict) -> "FailureReport":
        """The report on a run that has ended by itself, as anything but finished."""
        return cls(result["status"], cut_texts(result["error"]))


def cut_texts(error: dict) -> dict[str, str]:
    """An error's texts, each with its last characters alone where it is very long."""
    return {key: text[-MOST_CHARACTERS:] for key, text in error.items()}
