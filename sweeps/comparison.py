"""Renews README's comparison from a sweep's records: python sweeps/comparison.py outputs/compare --baseline full

Takes what `python -m tuneoff report` takes; the summary goes between README's two marks, two charts into this folder.
"""

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- comparison -->", "<!-- end of comparison -->"
CHARTS = {"quality_memory": "quality against peak memory", "curve_step": "training loss by step"}


def main() -> int:
    """Write the report into a scratch folder and take from it what README shows; returns the exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "tuneoff",
            "report",
            *sys.argv[1:],
            "--strict",
            "--out",
            scratch,
        ]
        code = subprocess.run(command).returncode
        if code:
            return code
        table, caption = Path(scratch, "summary.md").read_text("utf-8").strip().split("\n\n")
        for name in CHARTS:
            (FOLDER / f"{name}.svg").write_bytes(
                Path(scratch, "charts", f"{name}.svg").read_bytes()
            )
    images = "\n".join(
        f'<img src="sweeps/{name}.svg" width="49%" alt="{text}">' for name, text in CHARTS.items()
    )
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    shown = "\n\n".join(
        [BEGIN, table, textwrap.fill(caption, 120, break_long_words=False), images, END]
    )
    README.write_text(before + shown + rest.partition(END)[2], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
