"""Makes peft_judged.md: python sweeps/peft_judged.py CLONE COMMIT OLDER_COMMIT

CLONE is a clone of huggingface/peft; its result files of MetaMathQA are taken at two commits, the newer first, and
judged by `python -m tuneoff report --peft`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
RESULTS = "method_comparison/MetaMathQA/results"
BASELINE = "lora/llama-3.2-3B-rank32"


def main() -> int:
    """Extract both releases into a scratch folder, judge them, and write the page; returns the exit code."""
    clone, *commits = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [extract_results(clone, commit, Path(scratch, commit)) for commit in commits]
        command = [sys.executable, "-m", "tuneoff", "report", "--peft", *map(str, folders)]
        out = Path(scratch, "judged")
        code = subprocess.run([*command, "--baseline", BASELINE, "--out", str(out)]).returncode
        if code:
            return code
        judged = (out / "peft.md").read_text("utf-8")
    source = " and ".join(describe_commit(clone, commit) for commit in commits)
    heading = (
        "# PEFT's method comparison, judged by its test examples\n\n"
        "Llama-3.2-3B, trained on MetaMathQA, tested on GSM8K: the result files of "
        f"[huggingface/peft](https://github.com/huggingface/peft) (Apache License 2.0) at {source}. "
        "Made by `python sweeps/peft_judged.py CLONE COMMIT OLDER_COMMIT`."
    )
    PAGE.write_text(f"{heading}\n\n{judged}", "utf-8")
    return 0


def extract_results(clone: str, commit: str, folder: Path) -> Path:
    """Write the result files of a commit into `folder`; returns where they lie."""
    folder.mkdir()
    archive = ["git", "-C", clone, "archive", commit, RESULTS]
    packed = subprocess.run(archive, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
    return folder / RESULTS


def describe_commit(clone: str, commit: str) -> str:
    """Return `commit abc1234 of 2026-08-21`."""
    show = ["git", "-C", clone, "log", "-1", "--format=commit %h of %cs", commit]
    return subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
