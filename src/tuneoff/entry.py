"""From a composed config to a finished run, and from any error to one line. Imports no torch until a run begins."""
import copy
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from tuneoff.config import ConfigError, bind, identity, resolved
from tuneoff.errors import explain

log = logging.getLogger(__name__)


class RunFailed(RuntimeError):
    """A run that ended without a usable result; its record says why."""


def checked_identity(*, _root_: DictConfig) -> str:
    """`${identity:}`: names a run's folder, so a config is refused before any folder is made."""
    task = copy.deepcopy(_root_)
    with open_dict(task):
        task.pop("hydra", None)
    bind(task)
    return identity(task)


OmegaConf.register_new_resolver("identity", checked_identity, replace=True)


def run_job(cfg: DictConfig, folder: Path, sweep: str | None = None) -> dict:
    """Train what `cfg` describes into `folder` and print the closing table.

    Raises:
        ConfigError: a setting that cannot be used.
        RunFailed: the run ended as anything but finished.
    """
    experiment, method = bind(cfg)
    from tuneoff.loop import train
    start = {"identity": identity(cfg), "config": resolved(cfg), "command": ["python", *sys.argv], "sweep": sweep}
    try:
        result = train(experiment, method, folder, start)
    except ConfigError:
        forget(folder)
        raise
    print(closing_table(result, folder))
    if result["status"] != "finished":
        raise RunFailed(f"{result['status']}: {result['error']['type']}: {result['error']['message']} ({folder}/result.json)")
    return result


def forget(folder: Path) -> None:
    """Remove what a refused run left: it never trained, so nothing of worth is in it."""
    import shutil
    if not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").stat().st_size == 0:
        shutil.rmtree(folder, ignore_errors=True)


def closing_table(result: dict, folder: Path) -> str:
    """What a run came to, in a few aligned lines."""
    parameters, loss, memory = result["parameters"], result["loss"], result["memory"]
    rows = [("method", result["method"]), ("status", result["status"])]
    if parameters:
        share = 100 * parameters["trainable"] / parameters["total"]
        rows.append(("trainable", f"{parameters['trainable']:,} of {parameters['total']:,} ({share:.2f} %)"))
        if parameters["ever_trained"] != parameters["trainable"]:
            rows.append(("ever trained", f"{parameters['ever_trained']:,}"))
    shown = [f"{loss[key]:.4f}" if loss[key] is not None else "-" for key in ("initial", "final")]
    rows.append(("validation loss", " → ".join(shown)))
    speed = result["throughput"]["tokens_per_second"]
    rows.append(("throughput", f"{speed:,.0f} tokens/s" if speed else "-"))
    peaks = ", ".join(f"{phase} {peak:.2f}" for phase, peak in memory["peak_gib"].items())
    rows.append((f"peak GiB ({memory['measure']})", peaks))
    rows.append(("record", str(folder)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def one_line(main: Callable[[], None]) -> int:
    """Run `main`; turn what it raises into one line on stderr. Returns the exit code: 2 refused, 1 failed."""
    try:
        main()
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = explain(error, sys.argv[1:])
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    return 0
