"""Shared by the report's tests: reading what a test wrote, and the programs that some of them need."""
import os
import shutil
from pathlib import Path

import pytest

from tuneoff.report.compare import Comparison, compare
from tuneoff.report.read import read


def program(*names: str) -> str:
    """Path of an installed program. A missing one fails in CI and skips on a user's machine."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        missing = f"{names[0]} is not installed"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return found


@pytest.fixture
def load():
    """`load(folder, …)`: the comparisons of the records there."""
    def make(*folders: Path, baseline: str | None = None, strict: bool = False) -> list[Comparison]:
        return compare(read(folders)[0], baseline, strict)
    return make
