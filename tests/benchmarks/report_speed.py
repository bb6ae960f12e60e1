"""Speed of the report, in seconds of processor time: python tests/benchmarks/report_speed.py

Writes records of 55 and of 2,000 runs into a scratch folder, reports them in processes of their own (imports included,
the quickest of three), and writes the figures into report_speed.json beside this file, which README quotes.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(FOLDER.parent / "report"))

from records import METHODS, comparison, record, write  # noqa: E402

FIGURES = FOLDER / "report_speed.json"
TRIES = 3


def write_many(folder: Path, runs: int = 2000) -> Path:
    """Write records of every method at many rates, five seeds each, with curves as long as a record has them."""
    for number in range(runs):
        content = record(
            METHODS[number % 11],
            number // 11 % 5,
            lr=1e-3 * (1 + number // 55),
            points=195,
            steps=1000,
        )
        write(folder / f"{number:04}", content)
    return folder


def measure_report(folder: Path, out: Path) -> float:
    """Return the processor time of a report, in seconds, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tuneoff", "report", folder, "--out", out]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure both, print and keep the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            "55": comparison(Path(scratch, "55")),
            "2,000": write_many(Path(scratch, "2000")),
        }
        figures = {}
        for runs, folder in folders.items():
            seconds = [measure_report(folder, Path(scratch, "out")) for _ in range(TRIES)]
            figures[runs] = round(min(seconds), 1)
            print(f"{runs} runs: {figures[runs]} s")
    FIGURES.write_text(json.dumps({"cpu_seconds": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
