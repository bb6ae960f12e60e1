"""The folder that a report is written into: which of its files an earlier report wrote, and which are a user's own."""

import os
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path, PurePosixPath

from tuneoff.record import write_atomically
from tuneoff.report.records import ReportError
from tuneoff.report.text import show_line, show_path

CHARTS = "charts"
REPORT_LIST = ".tuneoff-report"  # the names that a report wrote, one a line
PEFT_LIST = ".tuneoff-peft"  # those of a report on others' results, which may share the folder
PAGE = "report.html"


def claim_names(folder: Path, names: Collection[str], list_name: str = REPORT_LIST) -> None:
    """Make the folder, and keep a list of what a report is about to write there.

    Raises:
        ReportError: a file has such a name already, and no report wrote it.
        OSError: the folder cannot be written.
    """
    earlier = _read_list(folder, list_name)
    # Reports of before there was a list: their page tells them.
    if not earlier and _holds_earlier_page(folder):
        earlier = set(names)
    for name in sorted(names):
        if name not in earlier and os.path.lexists(folder / name):
            raise ReportError(
                f"--out {show_path(folder)}: no report wrote the {show_line(name)} that is there; move it, or give "
                "--out another folder"
            )
    (folder / CHARTS).mkdir(parents=True, exist_ok=True)
    # Before anything else: a report that is stopped halfway must know its files again.
    _write_list(folder, list_name, earlier.union(names))


def remove_others(folder: Path, written: Collection[str], list_name: str = REPORT_LIST) -> None:
    """Remove the charts of an earlier report on other records; what no report wrote stays."""
    for name in _read_list(folder, list_name).difference(written):
        path = folder / name
        # The list is a file that anyone can edit: nothing outside of the charts goes by it.
        is_chart = PurePosixPath(name).parent == PurePosixPath(CHARTS)
        if is_chart and path.is_file():
            path.unlink()
    _write_list(folder, list_name, written)


def _read_list(folder: Path, list_name: str) -> set[str]:
    try:
        text = (folder / list_name).read_text("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return set(text.splitlines())


def _write_list(folder: Path, list_name: str, names: Collection[str]) -> None:
    lines = [f"{name}\n" for name in sorted(names)]
    write_atomically(folder / list_name, "".join(lines))


def _holds_earlier_page(folder: Path) -> bool:
    """Whether the folder has a page that begins as ours do."""
    template = files("tuneoff.report").joinpath("page.html").read_text("utf-8")
    head = template.partition("{{")[0]
    try:
        with open(folder / PAGE, encoding="utf-8", errors="replace") as page:
            return page.read(len(head)) == head
    except OSError:
        return False
