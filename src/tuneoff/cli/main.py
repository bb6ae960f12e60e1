"""The entry behind train.py: runs Hydra's main function, and turns any error into one line and an exit code."""

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from tuneoff.cli.arguments import list_words_of_file, prepare_sweep_arguments
from tuneoff.cli.callback import PreflightCheck, print_open_sweeps
from tuneoff.cli.error_lines import error_chain, explain_error
from tuneoff.cli.foreign_names import refuse_foreign_names
from tuneoff.cli.help import print_help, wants_help
from tuneoff.cli.run_folder import RunEnded
from tuneoff.cli.summary import format_run_summary
from tuneoff.cli.typed_words import expand_home, put_keys_together
from tuneoff.distributed.launch import LauncherError, check_launch, get_rank
from tuneoff.distributed.stop import StopRequest, interrupt_on_stop_signals
from tuneoff.jobs.failures import RunFailed
from tuneoff.record import RESULT, describe_os_error, format_failure, read_json
from tuneoff.record.console import prepare_console

LONG_WORD = re.compile(r"\S{400,}")
KEPT = 100  # characters of a long word, at either end

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130  # as a shell has it of a process that Ctrl-C ended

# Of these Hydra only warns.
RAISED_WARNINGS = (f"Callback {PreflightCheck.__name__}", "provider=.* is not available")


def one_line(main: Callable[[], None]) -> int:
    """Run `main`; turn what it raises into one line on stderr. Returns the exit code: 2 refused, 1 failed."""
    prepare_console()
    for message in RAISED_WARNINGS:
        warnings.filterwarnings("error", message=message)
    # Without it a YAML's own settings come last, which is what is meant.
    warnings.filterwarnings("ignore", message="In '.*': Defaults list is missing `_self_`")
    written = sys.argv[1:]
    stop = StopRequest()
    try:
        check_launch()
        if wants_help(written):
            print_help(written)
            return 0
        refuse_foreign_names(written)
        words = expand_home(put_keys_together(written))
        sys.argv[1:] = prepare_sweep_arguments(expand_yamls(words))
        with interrupt_on_stop_signals(stop):
            main()
        return 0
    except KeyboardInterrupt as caught:
        error: BaseException = caught
    except Exception as caught:
        error = unwrap_warning(caught)
    finally:
        print_open_sweeps()
    if is_interruption(error, stop):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, RunEnded):
        return report_earlier_result(error)
    return report_error(error, [*written, *list_words_of_file(written)])


def is_interruption(error: BaseException, stop: StopRequest) -> bool:
    """Whether the user ended the command: a library may make an error of its own of what a signal raises in it."""
    if isinstance(error, RunFailed | RunEnded):  # it says what came of the run
        return False
    return stop.is_set() or any(
        isinstance(cause, KeyboardInterrupt) for cause in error_chain(error)
    )


def expand_yamls(arguments: list[str]) -> list[str]:
    """The command line with what YAMLs of LLaMA-Factory say that it names; one that names none waits for nothing."""
    if not any(word.startswith("llamafactory=") for word in arguments):
        return arguments
    from tuneoff.cli.llamafactory.expansion import expand_files

    return expand_files(arguments)


def unwrap_warning(error: Exception) -> BaseException:
    """What a callback raised, where Hydra has made a warning of it."""
    if isinstance(error, UserWarning) and error.__context__ is not None:
        return error.__context__
    return error


def report_earlier_result(ended: RunEnded) -> int:
    """Print what the run came to that a resume found ended, in the first rank, and return that run's exit code."""
    result = read_json(ended.folder / RESULT) or {}
    if get_rank() == 0:
        print(ended, file=sys.stderr)
        print(summarize_earlier_result(result, ended.folder))
    error = result.get("error")
    if not isinstance(error, dict):
        return 0
    message = format_failure(result["status"], error)
    return report_error(RunFailed(f"{message} ({ended.folder / RESULT})"), [])


def summarize_earlier_result(result: dict, folder: Path) -> str:
    """The closing table of a result, or why there is none: it may be of an older version, or changed by hand."""
    try:
        return format_run_summary(result, folder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        return f"{folder / RESULT} is whole, and not as this version writes it ({reason})"


def report_error(error: BaseException, arguments: list[str]) -> int:
    """Print the line of an error, in the first rank, and return the exit code; raise one that is a fault of ours."""
    exit_code = EXIT_FAILED
    if isinstance(error, RunFailed):
        line: str | None = str(error)
    else:
        line = explain_error(error, arguments)
        if line is not None:
            exit_code = EXIT_REFUSED
        elif isinstance(error, OSError):  # a full disk, a folder that cannot be written
            line = describe_os_error(error)
    if line is None:
        raise error
    if isinstance(error, LauncherError) or get_rank() == 0:
        print(f"error: {cut_long_words(line)}", file=sys.stderr)
    return exit_code


def cut_long_words(line: str) -> str:
    """A line with the middle left out of words that nobody would read."""
    return LONG_WORD.sub(lambda match: f"{match[0][:KEPT]}…{match[0][-KEPT:]}", line)
