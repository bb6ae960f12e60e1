"""The report in W&B: its folder as an artifact, and its page, in a run of the project that the records name."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tuneoff.record import mask_secrets
from tuneoff.report.records import ReportError, Run

DEFAULT_PROJECT = "tuneoff"
MODES = ("offline", "online")
PAGE = "report.html"


def check_wandb() -> None:
    """Refuse where W&B is not installed.

    Raises:
        ReportError: it is not.
    """
    if find_spec("wandb") is None:
        raise ReportError("--wandb needs a package that is not installed: pip install wandb")


def upload_report(folder: Path, runs: Sequence[Run], mode: str) -> str:
    """Log the folder of a report as an artifact; returns a line that says where it is.

    Args:
        runs: those of the report, whose settings name the project.
        mode: offline or online.

    Raises:
        ReportError: W&B could not be reached, or raised anything else.
    """
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    name = mask_secrets([folder.resolve().parent.name])[0]
    try:
        with wandb.init(
            project=_find_setting(runs, "wandb_project") or DEFAULT_PROJECT,
            entity=_find_setting(runs, "wandb_entity"),
            name=f"report {name}",
            group=name,
            job_type="report",
            mode="online" if mode == "online" else "offline",
            dir=str(folder.parent),
        ) as tracked:
            artifact = wandb.Artifact(f"report-{_allow_characters(name)}", type="report")
            artifact.add_dir(str(folder))
            tracked.log({"report": wandb.Html(str(folder / PAGE))})
            tracked.log_artifact(artifact)
            place = tracked.dir
    except Exception as error:  # whatever W&B raises, the report itself is written
        text = str(error) or type(error).__name__
        reason = text.splitlines()[0]
        raise ReportError(f"--wandb {mode}: {reason[:200]}; the report is in {folder}") from error
    if mode == "online":
        return "report: in W&B"
    return f"upload the report with: wandb sync {Path(place).parent}"


def _find_setting(runs: Sequence[Run], key: str) -> str | None:
    """A setting of the first run that has it."""
    for run in runs:
        value = run.get(f"config.{key}")
        if isinstance(value, str) and value:
            return value
    return None


def _allow_characters(name: str) -> str:
    """A name with the characters that an artifact's may have."""
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
