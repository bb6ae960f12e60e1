"""The command as a user runs it: where torch cannot be imported, offline, on many records, and while a sweep runs."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from records import METHODS, comparison, record, write

# Makes heavy packages and the network unreachable, as in an environment of `pip install --no-deps` and the extra.
HOOK = """
import socket, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "hydra", "omegaconf", "peft", "accelerate", "wandb",
                                      "datasets", "pandas"}:
            raise ImportError(f"{name} is refused in this test")
sys.meta_path.insert(0, Refuse())
def refuse(*arguments, **named):
    raise OSError("no network in this test")
socket.socket.connect = socket.create_connection = refuse
"""


def command(*arguments: object, hook: Path | None = None) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(hook or ""), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tuneoff", "report", *map(str, arguments)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*arguments: object, hook: Path | None = None) -> tuple[int, str, str]:
    process = command(*arguments, hook=hook)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_without_torch_and_offline(tmp_path):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    check = subprocess.run(
        [sys.executable, "-c", "import torch"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hook")},
    )
    assert "refused in this test" in check.stderr
    code, out, err = run(comparison(tmp_path / "compare"), hook=tmp_path / "hook")
    assert (code, err) == (0, "")
    written = {path.name for path in (tmp_path / "compare" / "report").iterdir()}
    assert written == {
        ".tuneoff-report",
        "table.md",
        "summary.md",
        "table.csv",
        "table.tex",
        "summary.tex",
        "report.html",
        "charts",
    }
    assert "55 runs, 11 rows" in out


@pytest.mark.slow
@pytest.mark.serial
def test_the_report_itself_is_not_read_and_the_same_records_give_the_same_tables(tmp_path):
    comparison(tmp_path, seeds=3)
    run(tmp_path)
    files = [tmp_path / "report" / name for name in ("table.md", "table.csv", "table.tex")]
    before = [file.read_bytes() for file in files]
    for path in tmp_path.rglob("result.json"):
        os.utime(path, (1, 1))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, _, err = run(tmp_path)
    again = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (code, err) == (0, "") and before == [file.read_bytes() for file in files]
    # "A second or two", of processor time because others may train on this machine, and twice that for a slower one.
    assert again.ru_utime + again.ru_stime - spent.ru_utime - spent.ru_stime < 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such folder"),
        (["empty"], "no records here"),
        (["runs", "--baseline", "nothing"], "--baseline nothing: must be one of"),
        (["runs", "--out", "/dev/null/x"], "--out /dev/null/x: must be a folder that can be made"),
        (["runs", "--strict"], "they differ in budget value"),
    ],
)
def test_a_refusal_is_one_line_and_writes_nothing(tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "runs" / "a", record(METHODS[0]))
    write(tmp_path / "runs" / "b", record(METHODS[1], steps=300))
    code, _, err = run(tmp_path / arguments[0], *arguments[1:])
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("report"))


def test_a_split_is_written_and_said(tmp_path):
    write(tmp_path / "a", record(METHODS[0]))
    write(tmp_path / "b", record(METHODS[1], steps=300))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "result.json").write_text('{"half')
    code, _, err = run(tmp_path)
    assert code == 0 and "budget value differs: 200, 300" in err and "c/result.json: skipped" in err
    assert "Comparison B" in (tmp_path / "report" / "table.md").read_text()


@pytest.mark.slow
def test_charts_of_an_earlier_report_go(tmp_path):
    for seed in range(2):
        write(tmp_path / f"a{seed}", record(METHODS[0], seed))
        write(tmp_path / f"b{seed}", record(METHODS[1], seed))
    run(tmp_path)
    charts = tmp_path / "report" / "charts"
    assert (charts / "quality_memory.svg").exists()
    for seed in range(2):
        (tmp_path / f"b{seed}" / "result.json").unlink()
        (tmp_path / f"b{seed}" / "run.json").unlink()
    run(tmp_path)
    assert not (charts / "quality_memory.svg").exists() and (charts / "curve_step.svg").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    write(tmp_path / "run", record(METHODS[0]))
    (tmp_path / "file").write_text("")
    code, _, err = run(tmp_path / "run", "--out", tmp_path / "file" / "below")
    assert code == 2 and len(err.strip().splitlines()) == 1 and "file is a file" in err
    (tmp_path / "run" / "report").write_text("")
    code, _, err = run(tmp_path / "run")
    assert code == 2 and len(err.strip().splitlines()) == 1 and "report is a file" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: command (see python -m tuneoff --help)"),
        (["reprot"], "invalid choice: 'reprot'"),
        (["report"], "the following arguments are required: folders (see python -m tuneoff report"),
        (["report", "x", "--colums", "y"], "unrecognized arguments: --colums y"),
        (["power", "x", "--difference", "abc"], "--difference: invalid float value: 'abc'"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused_in_one_line(arguments, said):
    command = [sys.executable, "-m", "tuneoff", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2 and line.startswith("error: ") and said in line


def start(folder: Path, *more: object, before=None, stdout=subprocess.PIPE, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tuneoff", "report", folder, *more],
        env={**os.environ, **environment},
        preexec_fn=before,
        text=True,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_disk_without_room_is_one_line_that_names_the_file(tmp_path):
    write(tmp_path / "run", record(METHODS[0]))
    # Python would leave compiled modules of 100 bytes, which nobody could import afterwards.
    process = start(tmp_path / "run", before=no_room, PYTHONDONTWRITEBYTECODE="1")
    _, err = process.communicate(timeout=120)
    (line,) = err.strip().splitlines()
    assert (
        process.returncode == 1
        and line.startswith("error: ")
        and "/report/" in line
        and "None" not in line
    )
    left = [path.name for path in (tmp_path / "run" / "report").rglob("*") if path.is_file()]
    assert not [name for name in left if name.startswith(".")]  # nothing half written


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(tmp_path, unbuffered):
    write(tmp_path / "run", record(METHODS[0]))
    with open("/dev/full", "w") as full:
        process = start(tmp_path / "run", stdout=full, PYTHONUNBUFFERED=unbuffered)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and err == "error: output: No space left on device\n"
    process = start(tmp_path / "run", PYTHONUNBUFFERED=unbuffered)
    process.stdout.close()  # as `| head -0` does: the files are written all the same
    err = process.stderr.read()
    assert process.wait(timeout=120) == 0 and err == ""


@pytest.mark.parametrize(
    "locale",
    [
        pytest.param({}, id="output"),
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0"}, id="all", marks=pytest.mark.slow),
    ],
)
def test_a_terminal_that_knows_ascii_alone_gets_its_lines(tmp_path, locale):
    folder = tmp_path / "naïve"
    write(folder / "run", record("méthode"))
    (folder / "bäd").mkdir()
    (folder / "bäd" / "result.json").write_text("{")
    process = start(folder, PYTHONIOENCODING="ascii", **locale)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in err
    assert "1 runs" in out and "result.json: skipped" in err
    assert locale or ("na\\xefve" in out and "b\\xe4d" in err)


@pytest.mark.slow
def test_watch_fills_in_as_a_sweep_runs(tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    process = command(sweep, "--watch")
    table = sweep / "report" / "table.md"

    def until(text: str) -> None:
        end = time.monotonic() + 120
        while not (table.exists() and text in table.read_text()):
            assert time.monotonic() < end and process.poll() is None, f"no {text} in the table"
            time.sleep(0.1)

    try:
        assert "no records yet" in process.stderr.readline()
        write(sweep / "a", record(METHODS[0]))
        until(METHODS[0])
        write(sweep / "b", record(METHODS[1], status="diverged"))
        until("diverged 1")
        (sweep / "c").mkdir()
        (sweep / "c" / "result.json").write_text("{")
        write(sweep / "d", record(METHODS[2]))
        until(METHODS[2])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.serial
def test_two_thousand_records_in_ten_seconds_and_one_gib(tmp_path):
    """With 1,000 lines of metrics each, which a report must not need to read; imports included.

    The wall clock is judged where no process waits for a core; where some do, processor time alone says anything.
    """
    steps = "".join(
        f'{{"step": {step}, "loss": 3.0, "lr": [0.001], "tokens": 1}}\n' for step in range(1, 1001)
    )
    for number in range(2000):
        content = record(
            METHODS[number % 11],
            number // 11 % 5,
            lr=1e-3 * (1 + number // 55),
            points=195,
            steps=1000,
        )
        folder = write(tmp_path / f"{number:04}", content)
        (folder / "metrics.jsonl").write_text(steps)
    quiet, started = os.getloadavg()[0] < (os.cpu_count() or 1), time.perf_counter()
    measure = (
        "import resource, time; from tuneoff.__main__ import main; code = main(); "
        "print(code, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", measure, "report", str(tmp_path)], capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    code, seconds, gib = done.stdout.splitlines()[-1].split()
    assert (code, done.stderr) == ("0", "") and "2000 runs" in done.stdout
    assert float(seconds) < 8 and float(gib) < 1 and (wall < 10 or not quiet), (
        seconds,
        gib,
        wall,
        quiet,
    )


@pytest.mark.slow
def test_the_readmes_comparison_is_renewed_by_one_command(tmp_path):
    (tmp_path / "sweeps").mkdir()
    script, readme = tmp_path / "sweeps" / "comparison.py", tmp_path / "README.md"
    root = Path(__file__).parents[2]
    script.write_text((root / "sweeps" / "comparison.py").read_text())
    readme.write_text((root / "README.md").read_text())
    before, after = readme.read_text().partition("<!-- comparison -->")[::2]
    after = after.partition("<!-- end of comparison -->")[2]
    comparison(tmp_path / "records", seeds=3)
    for _ in range(2):  # renewed, not added
        done = subprocess.run(
            [sys.executable, script, tmp_path / "records", "--baseline", METHODS[4]],
            text=True,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        text = readme.read_text()
        assert text.startswith(before) and text.endswith(after)
        renewed = text[len(before) : len(text) - len(after)]
        assert renewed.count("| Method | Learning rate |") == 1
    assert all(f"\n| {method}".replace("_", "\\_") in text for method in METHODS)
    for name in ("quality_memory", "curve_step"):
        assert (
            f'src="sweeps/{name}.svg"' in text
            and (tmp_path / "sweeps" / f"{name}.svg").stat().st_size < 60_000
        )
    write(tmp_path / "records" / "other", record(METHODS[0], steps=300))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "records"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "budget value" in done.stderr and readme.read_text() == text


@pytest.mark.slow
def test_a_report_is_an_artifact_in_wandb(tmp_path):
    pytest.importorskip("wandb")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from test_trackers import records as read_offline

    folder = write(tmp_path / "sweep" / "one", record(METHODS[0], 1)).parent
    code, out, err = run(folder, "--wandb")
    assert (code, err) == (0, "")
    assert "wandb sync" in out
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    kinds = list(read_offline(path))
    (started,) = [one.run for one in kinds if one.WhichOneof("record_type") == "run"]
    assert (started.job_type, started.run_group) == ("report", "sweep")
    requests = [one.request for one in kinds if one.WhichOneof("record_type") == "request"]
    artifacts = [one.artifact for one in kinds if one.WhichOneof("record_type") == "artifact"]
    artifacts += [one.log_artifact.artifact for one in requests if one.HasField("log_artifact")]
    (artifact,) = [one for one in artifacts if one.type == "report"]
    names = {entry.path for entry in artifact.manifest.contents}
    assert {"report.html", "table.csv"} <= names


def test_watching_and_uploading_do_not_go_together(tmp_path):
    code, _, err = run(tmp_path, "--watch", "--wandb")
    assert code == 2 and "--wandb is for a report that is written once" in err
