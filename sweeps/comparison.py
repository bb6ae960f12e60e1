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


def describe_table(table: str) -> str:
    """Say which methods a Markdown table tells apart: those in bold from none, and those with a star from the baseline.

    The sentence is made of the table's own marks, so that the two cannot contradict each other.
    """
    best: list[str] = []
    different: list[str] = []
    alike: list[str] = []
    baseline = ""
    for line in table.strip().splitlines()[2:]:
        name = line.split("|")[1].strip()
        if "**" in line:
            best.append(name)
        if "| baseline |" in line:
            baseline = name
        elif "\\*" in line:
            different.append(name)
        else:
            alike.append(name)
    verb = "is the best" if len(best) == 1 else "cannot be told apart as the best"
    sentence = f"By this table's tests {join_names(best)} {verb}. Different from {baseline}: {join_names(different)}"
    if alike:
        sentence += f"; not told apart from it: {join_names(alike)}"
    return f"{sentence}."


def join_names(names: list[str]) -> str:
    """`a, b and c`, or `none`."""
    if not names:
        return "none"
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


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
    sentence = textwrap.fill(describe_table(table), 120, break_long_words=False)
    caption = textwrap.fill(caption, 120, break_long_words=False)
    shown = "\n\n".join([BEGIN, table, sentence, caption, images, END])
    README.write_text(before + shown + rest.partition(END)[2], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
