"""The record: files that are written whole and read however damaged, and private folders."""

import errno
import fcntl
import json
import os
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tuneoff.record import (
    METRICS,
    RESULT,
    RUN,
    Recorder,
    cache_folder,
    conclude_dead_run,
    describe_os_error,
    is_private,
    make_private_folder,
    read_json,
    read_metrics,
    read_status,
    write_atomically,
    write_json,
)
from tuneoff.training.checkpoint import Checkpoint, load_newest, save_checkpoint


# ---------------------------------------------------------------- files
@contextmanager
def limit_file_size(size_bytes: int):
    """Files may grow to this size: what is written beyond fails as on a full disk, with an error that has no name."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python would keep a compiled module that the limit has cut, and read it for ever.
    kept = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = kept


@pytest.fixture
def full_disk():
    with limit_file_size(100):
        yield


def test_a_disk_that_knows_no_locks_is_told_of_and_used(tmp_path, monkeypatch, caplog):
    """Lustre mounted without flock, as on many clusters: no run could begin there."""

    def refuse(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    recorder = Recorder(tmp_path)
    recorder.start({"identity": "one"})
    assert recorder.finish("finished", {})["status"] == "finished"
    recorder.close()
    assert caplog.messages == [
        f"{tmp_path}/.lock: Function not implemented; nothing keeps a second run out of this folder"
    ]


def write_too_much(path: Path) -> None:
    path.write_text("x" * 1000)


@pytest.mark.parametrize("content", ["x" * 1000, b"x" * 1000, write_too_much])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, full_disk, content):
    path = tmp_path / "kept"
    path.write_text("before")
    with pytest.raises(OSError, match="File too large") as caught:
        write_atomically(path, content)
    assert caught.value.filename == str(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_outgrows_the_limit_leaves_the_one_before(tmp_path):
    """As under `ulimit -f`, whose signal Python turns into an error."""
    kept = Checkpoint(1, {"weight": torch.zeros(2)}, {}, {})
    save_checkpoint(tmp_path, kept, keep=2)
    large = Checkpoint(2, {"weight": torch.zeros(9000)}, {}, {})
    refused = pytest.raises(
        OSError, match=r"checkpoint of step 2 could not be written: .*too large"
    )
    with limit_file_size(2000), refused:
        save_checkpoint(tmp_path, large, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert load_newest(tmp_path).step == 1


def test_a_file_is_whole_whatever_stops_the_writing(tmp_path):
    def interrupted(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "new", interrupted)
    assert not list(tmp_path.iterdir())
    write_atomically(tmp_path / ("long" * 60), "\ud800é")
    assert (tmp_path / ("long" * 60)).read_bytes() == "?é".encode()


def test_a_full_disk_names_the_file_and_the_result_is_tried(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.start({})
    with limit_file_size(100), pytest.raises(OSError, match="File too large") as caught:
        for step in range(100):
            recorder.log({"step": step, "loss": 1.0})
    assert caught.value.filename == str(tmp_path / METRICS)
    recorder.finish("failed", {})
    recorder.close()
    assert read_status(tmp_path) == "failed"


def test_an_error_of_the_disk_always_says_where():
    assert describe_os_error(OSError(28, "No space left on device"), "table") == (
        "table: No space left on device"
    )
    assert describe_os_error(FileNotFoundError(2, "No such file", "a")) == "a: No such file"
    assert describe_os_error(OSError("checkpoint: gone")) == "output folder: checkpoint: gone"


def test_only_this_user_changes_what_is_kept(tmp_path):
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b")
        path = tmp_path / "a" / "b" / "kept"
        write_atomically(path, "x", private=True)
        write_atomically(path, lambda file: (file.unlink(), file.write_text("y")), private=True)
        write_atomically(path.with_name("public"), "x")
    finally:
        os.umask(before)
    modes = [
        entry.stat().st_mode & 0o777 for entry in (path.parent, path, path.with_name("public"))
    ]
    assert modes == [0o700, 0o600, 0o666]
    assert path.read_text() == "y" and is_private(path)
    assert not is_private(path.with_name("public")) and not is_private(path.with_name("none"))
    path.parent.chmod(0o770)
    assert not is_private(path)
    with pytest.raises(PermissionError, match="can be changed by other users") as caught:
        make_private_folder(path.parent)
    assert caught.value.filename == str(path.parent)
    assert path.parent.stat().st_mode & 0o777 == 0o770  # perhaps others are meant to use it


def test_what_another_user_owns_is_not_believed(tmp_path, monkeypatch):
    write_atomically(tmp_path / "kept", "x", private=True)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert not is_private(tmp_path / "kept")
    with pytest.raises(PermissionError, match="belongs to another user"):
        make_private_folder(tmp_path)


def test_there_is_one_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("TUNEOFF_CACHE", "~/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/home/somebody/mine")
    monkeypatch.setenv("TUNEOFF_CACHE", "")
    assert cache_folder() == Path("/caches/tuneoff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/somebody/.cache/tuneoff")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user who has no home
    assert cache_folder().is_absolute() and str(os.getuid()) in cache_folder().name


# ---------------------------------------------------------------- damaged records
DAMAGED = {
    "empty": b"",
    "cut": b'{"schema_version": 1, "sta',
    "binary": bytes(range(256)),
    "not an object": b"[1, 2]",
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "wrong encoding": '{"a": "é"}'.encode("latin-1"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_none(tmp_path, content):
    for name in (RUN, RESULT, METRICS):
        (tmp_path / name).write_bytes(content)
    assert read_json(tmp_path / RESULT) is None
    assert read_status(tmp_path) == "interrupted"
    assert list(read_metrics(tmp_path)) == []
    result = conclude_dead_run(tmp_path, {"method": "lora"}, "killed", {}, 1.0)
    assert result["status"] == read_status(tmp_path) == "killed"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_read_as_none(tmp_path, value):
    (tmp_path / RUN).write_text(f'{{"a": {value}, "b": [{value}]}}')
    assert read_json(tmp_path / RUN) == {"a": None, "b": [None]}


def test_lines_that_cannot_be_read_are_passed_over(tmp_path):
    lines = [
        {"step": 1, "tokens": "many", "validation_loss": "low"},
        [1],
        {"loss": 1},
        {"step": "2"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "tokens": 5}\n{"st'
    (tmp_path / METRICS).write_text(text)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]
    result = conclude_dead_run(tmp_path, {}, "killed", {}, 1.0)
    assert result["throughput"]["tokens_seen"] == 5 and result["loss"]["best"] is None


@pytest.mark.parametrize("status", [None, 3, ["finished"], {}])
def test_a_status_of_another_type_is_a_run_to_try_again(tmp_path, status):
    assert read_status(tmp_path) is None
    write_json(tmp_path / RESULT, {"status": status})
    assert read_status(tmp_path) == "interrupted"
    write_json(tmp_path / RUN, {})
    assert read_status(tmp_path) == "interrupted"


def test_asking_git_locks_nothing(monkeypatch):
    """A run that is killed while it asks must not leave the user's checkout locked."""
    from tuneoff.training import provenance

    commands = []

    def run(command, **options):
        commands.append(command)
        raise FileNotFoundError

    monkeypatch.setattr(provenance.subprocess, "run", run)
    assert provenance._describe_checkout() == {}
    assert commands and all(command[1] == "--no-optional-locks" for command in commands)
