"""README's sentence on the report's speed has the figures that the benchmark wrote."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SENTENCE = re.compile(
    r"A\s+report\s+of\s+55\s+runs\s+takes\s+([\d.]+)\s+s\s+of\s+processor\s+time,\s+of\s+2,000\s+runs\s+([\d.]+)\s+s"
)


def test_readme_says_what_was_measured():
    figures = json.loads((ROOT / "tests" / "benchmarks" / "report_speed.json").read_text())
    (said,) = SENTENCE.findall((ROOT / "README.md").read_text())
    measured = (figures["cpu_seconds"]["55"], figures["cpu_seconds"]["2,000"])
    assert tuple(map(float, said)) == measured
