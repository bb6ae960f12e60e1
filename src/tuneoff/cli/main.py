"""The entry behind train.py: runs Hydra's main function, and turns any error into one line and an exit code."""

import sys
import warnings
from collections.abc import Callable

from tuneoff.cli.arguments import check_flags, prepare_sweep_arguments
from tuneoff.cli.callback import PreflightCheck
from tuneoff.cli.error_lines import explain_error
from tuneoff.distributed.launch import get_rank
from tuneoff.jobs.work import RunFailed

# Our YAML of a launcher has the plugin's name and its types; Hydra 1.3 merges the two, and says it will not for ever.
warnings.filterwarnings(
    "ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
)


def one_line(main: Callable[[], None]) -> int:
    """Run `main`; turn what it raises into one line on stderr. Returns the exit code: 2 refused, 1 failed."""
    for passed_over in (
        f"Callback {PreflightCheck.__name__}",
        "provider=.* is not available",
    ):  # Hydra only warns of these
        warnings.filterwarnings("error", message=passed_over)
    written = sys.argv[1:]
    try:
        check_flags()
        sys.argv[1:] = prepare_sweep_arguments(written)
        main()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as caught:
        raised = (
            caught.__context__ if isinstance(caught, UserWarning) and caught.__context__ else caught
        )
    failed = isinstance(raised, RunFailed)
    line = str(raised) if failed else explain_error(raised, written)
    if line is None and isinstance(raised, OSError):  # a full disk, a folder that cannot be written
        failed, line = True, f"{raised.filename or 'output folder'}: {raised.strerror or raised}"
    if line is None:
        raise raised
    if get_rank() == 0:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 2
