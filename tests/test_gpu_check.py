"""The GPU's own check goes through on a CPU, small, so that the day a card is at hand it is not the check that fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, inherited_environment

CHECK = ROOT / "tests" / "gpu" / "check.py"


def check(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, CHECK, "--dry", *map(str, words)]
    return subprocess.run(
        command, env=inherited_environment(), capture_output=True, text=True, timeout=1500
    )


@pytest.mark.slow
def test_the_check_goes_through_on_a_cpu(tmp_path):
    predictions = tmp_path / "predictions.json"
    out = tmp_path / "figures.json"
    done = check("--predict", predictions)
    assert done.returncode == 0, done.stderr
    done = check(
        "--folder", tmp_path, "--predictions", predictions, "--out", out, "--seconds", 3000
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    sections = figures["sections"]
    assert figures["dry"]
    for section in sections.values():
        assert "error" not in section, section
    assert [job["status"] for job in sections["user_sweep"]["jobs"]] == ["finished"] * 2
    assert not any("skipped" in section for section in sections.values())
    methods = sections["methods_4"] | sections["methods_1"]
    assert {each["status"] for each in methods.values()} == {"finished"}
    assert set(methods) == set(json.loads(predictions.read_text()))
    repeated = sections["resume"]["full_float32"]
    assert repeated["status"] == "killed, then finished"
    assert repeated["again"] == repeated["resumed"] == 0
    memory = sections["out_of_memory"]
    assert memory["limited"]["status"] == "out_of_memory"
    assert memory["after_it"]["status"] == "finished"
    refused = sections["precisions"]["fp16_full"]
    assert refused["status"] == "failed" and "needs a CUDA device" in refused["error"]
    for sweep in sections["joblib"].values():
        assert [job["status"] for job in sweep["jobs"]] == ["finished"] * 2
    assert sections["ranks"]["on_one_card"]["status"] == "finished"
    assert sections["ranks"]["beside_nccl"]["busy_seconds"] > 0
    assert sections["small_model"]["answers"]["status"] == "finished"
    assert {job["status"] for job in sections["shelf"].values()} == {"finished"}
    assert sections["compiled"]["lora_plain"]["status"] == "finished"
    for seconds in sections["galore_refresh"].values():
        assert set(seconds) == {"exact_seconds", "first_seconds", "subspace_seconds"}
    for name in ("quantised", "attention"):
        jobs = [job for job in sections[name].values() if "status" in job]
        assert {job["status"] for job in jobs} == {"finished"}


def test_the_checks_files_import_what_is_there():
    """In a second, where the dry run takes minutes: renamed parts of the package are noticed."""
    done = check("--help")
    assert done.returncode == 0 and "--predictions" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_script_for_a_pretrained_model_tunes_and_compares(tmp_path):
    """Each stage comes to its end, the rates beyond an edge too; without time left nothing starts."""
    rows = []
    for number in range(60):
        answer = f"It is {number + 2}.\n#### {number + 2}"
        rows.append({"question": f"What is {number} plus 2?", "answer": answer})
    data_path = tmp_path / "rows.jsonl"
    data_path.write_text("\n".join(map(json.dumps, rows)))
    words = ["method=full", "model=tiny", "model.path=tuneoff:tiny", f"data.path={data_path}"]
    words += ["data.subset=null", "data.limit=8", "epochs=1", "forgetting.data.eval_limit=1"]
    done = run_script(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    outputs = tmp_path / "outputs"
    assert count_finished(outputs / "smollm2_gsm8k_alone") == {"full": 1}
    edges = done.stdout.count("is on the edge of its grid")
    tuned = count_finished(outputs / "smollm2_gsm8k_tune")
    assert sum(tuned.values()) == 4 + 2 * edges
    assert count_finished(outputs / "smollm2_gsm8k_compare") == {"full": 5}
    again = run_script(tmp_path, *words, seconds=0)
    assert again.returncode == 124
    assert count_finished(outputs / "smollm2_gsm8k_tune") == tuned


def run_script(folder: Path, *words: str, seconds: int = 1000) -> subprocess.CompletedProcess:
    """The script in a folder with what it needs, so that its outputs lie there."""
    for name in ("conf", "sweeps"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    shutil.copy(ROOT / "train.py", folder)
    environment = inherited_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = folder / "sweeps" / "smollm2_gsm8k_gpu.sh"
    return subprocess.run(
        ["bash", script, str(seconds), "2", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )


def count_finished(sweep: Path) -> dict[str, int]:
    """Finished runs of a sweep by method."""
    counts: dict[str, int] = {}
    for path in sweep.glob("*/*/result.json"):
        result = json.loads(path.read_text())
        if result["status"] == "finished":
            counts[result["method"]] = counts.get(result["method"], 0) + 1
    return counts
