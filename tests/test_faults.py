"""What a machine does to a run: full disks, folders that cannot be written, two runs on one folder, torn files."""

import json
import os
import subprocess

import pytest
from helpers import METHODS, finish, quick_of

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.training import checkpoint
from tuneoff.training.provenance import refuse_other_inputs


@pytest.fixture
def train(command):
    """`train(folder, "method=lora", …)` runs `train.py` to its end."""
    return lambda folder, *words: command(f"hydra.run.dir={folder}", *words)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB; root alone can mount one, and CI is root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode and not os.environ.get("CI"):
        pytest.skip("cannot mount a tmpfs here")
    assert mounted.returncode == 0, mounted.stderr
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(small_disk, train):
    """LoRA's first checkpoints fit, then something else takes the space."""
    folder = small_disk / "run"
    (small_disk / "other").write_bytes(bytes(1_650_000))
    done = train(folder, "method=lora", "save_every=1", "max_steps=9", "keep_checkpoints=100")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert (
        "checkpoint of step" in last
        and "could not be written" in last
        and "Traceback" not in done.stderr
    )
    kept = checkpoint.find_checkpoints(folder / "checkpoints")
    assert kept and checkpoint.load_newest(folder / "checkpoints").step == len(kept)
    assert not list((folder / "checkpoints").glob(".*"))  # the torn one is gone
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed" and result["loss"]["initial"] > 0
    (small_disk / "other").unlink()
    again = train(folder, "method=lora", "save_every=1", "max_steps=9", "resume=auto")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "result.json").read_text())["resumed_at_step"] == len(kept)


def test_a_disk_that_fills_up_while_the_model_is_saved(small_disk, run):
    """Half a model is removed, so that there is room for the record; the training is in the checkpoint."""
    folder, words = small_disk / "run", ["method=lora", "save_model=true", "save_every=4"]
    (small_disk / "other").write_bytes(bytes(1_550_000))
    result = run(*words, folder=folder)
    assert result["status"] == "failed" and "No space left on device" in result["error"]["message"]
    assert result == record.read_json(folder / "result.json") and result["loss"]["final"] > 0
    assert not (folder / "model").exists()
    (small_disk / "other").unlink()
    again = run(*words, "resume=auto", folder=folder)
    assert again["status"] == "finished" and again["resumed_at_step"] == 4
    assert (folder / "model" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_disk_with_no_room_for_the_record(small_disk, train):
    (small_disk / "other").write_bytes(bytes(2 * 2**20 - 24_000))
    done = train(small_disk / "run", "method=full", "max_steps=400")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(tmp_path, train):
    """Below a file, since root may write anywhere else."""
    (tmp_path / "file").write_text("in the way")
    done = train(tmp_path / "file" / "run", "method=full")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"{tmp_path}/file is a file" in done.stderr, done.stderr


@pytest.mark.slow
def test_two_runs_on_one_folder(tmp_path, train):
    holder = record.Recorder(tmp_path / "run")
    assert record.is_locked(tmp_path / "run")
    done = train(tmp_path / "run", "method=full", "resume=auto")
    holder.close()
    assert done.returncode == 2
    assert "another process is training" in done.stderr.splitlines()[-1]
    assert not record.is_locked(tmp_path / "run")


@pytest.mark.slow
def test_no_refusal_and_no_other_run_touches_an_earlier_record(tmp_path, train):
    folder, settings = tmp_path / "run", ["method=freeze", "save_every=2"]
    assert train(folder, *settings).returncode == 0
    before = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.name in (record.RUN, record.METRICS, record.RESULT)
        or path.parent.parent.name == "checkpoints"
    }
    assert len(before) > 5
    for more, line in (
        (
            ["rerun=true", "freeze_trainable_layers=99"],
            "freeze_trainable_layers=99: this model has",
        ),
        (["resume=auto", "lr=9e-3"], f"resume=auto: {folder} holds run "),
    ):
        done = train(folder, *settings, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and done.stderr.startswith(
            f"error: {line}"
        )
        assert {path: path.read_bytes() for path in before} == before
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for resume in ("auto", folder):  # it has finished
        done = train(folder, *settings, f"resume={resume}")
        (line,) = done.stderr.splitlines()
        assert line == f"resume={resume}: the run in {folder} has finished"
        assert done.returncode == 0 and "finished" in done.stdout
        assert {path: path.read_bytes() for path in whole} == whole


@pytest.mark.slow
def test_two_runs_that_start_at_once_on_one_folder(tmp_path, launch):
    """A lock decides: one trains, the other is refused and changes nothing."""
    words = ["hydra.run.dir=run", "method=full", "resume=auto", "max_steps=100"]
    processes = [launch(*words), launch(*words)]
    both = [finish(process) for process in processes]
    refused, done = sorted(both, key=lambda process: -process.returncode)
    assert done.returncode == 0, done.stderr
    assert refused.returncode == 2 and "another process" in refused.stderr.splitlines()[-1]
    assert [line["step"] for line in record.read_metrics(tmp_path / "run") if "loss" in line] == [
        *range(1, 101)
    ]


def test_a_torn_checkpoint_gives_way_to_the_one_before(tmp_path, train):
    folder = tmp_path / "run"
    first = train(folder, "method=full", "max_steps=6", "save_every=2")
    assert first.returncode == 0, first.stderr
    whole = (folder / "metrics.jsonl").read_text()
    newest = checkpoint.find_checkpoints(folder / "checkpoints")[-1]
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    (folder / "result.json").unlink()
    again = train(folder, "method=full", "max_steps=6", "save_every=2", "resume=auto")
    assert again.returncode == 0, again.stderr
    assert "cannot be read" in again.stderr and "step_00000006" in again.stderr

    def losses(text):
        return [json.loads(line).get("loss") for line in text.splitlines()]

    assert losses((folder / "metrics.jsonl").read_text()) == losses(whole)


@pytest.mark.parametrize("method", quick_of(METHODS, "full", "galore_layerwise", "lora"))
def test_a_gradient_that_is_no_number_is_a_record(settings, tmp_path, method):
    """In step 3: said so, with what was trained before in the record and, whole, in the checkpoint."""
    from tuneoff.training.run import train as train_here

    extra = ["galore_rank=8", "galore_update_interval=2"] if "galore" in method else []
    experiment, chosen, config = settings(f"method={method}", "save_every=1", *extra)
    prepare, forwards = chosen.prepare, []

    def poisoned(model):
        model = prepare(model)
        model.register_forward_pre_hook(lambda module, inputs: forwards.append(module.training))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_hook(
                    lambda gradient: gradient * float("nan") if sum(forwards) == 3 else gradient
                )
        return model

    chosen.prepare = poisoned
    result = train_here(experiment, chosen, tmp_path, {"config": config})
    assert result["status"] == "diverged" and result["error"]["message"].startswith(
        "diverged at step 3: "
    )
    assert [line["step"] for line in result["curve"] if "loss" in line] == [1, 2, 3]
    saved = checkpoint.load_newest(tmp_path / "checkpoints")
    assert saved.step == 2 and all(tensor.isfinite().all() for tensor in saved.tensors.values())


def test_a_failing_run_leaves_its_record(tmp_path, monkeypatch, settings):
    """An error in the middle of training: the status, the error, and what was measured up to there."""
    import torch

    from tuneoff.training.run import train as train_here

    experiment, method, config = settings("method=full")
    made = type(method).make_optimizer

    def failing(self, model, run):
        optimizer, calls = made(self, model, run), []

        def fail(*arguments):
            calls.append(1)
            if len(calls) == 3:
                raise torch.OutOfMemoryError("no more")

        optimizer.register_step_pre_hook(fail)
        return optimizer

    monkeypatch.setattr(type(method), "make_optimizer", failing)
    result = train_here(experiment, method, tmp_path / "run", {"config": config})
    assert result["status"] == "out_of_memory" and result["error"]["type"] == "OutOfMemoryError"
    assert "no more" in result["error"]["traceback"]
    assert result["loss"]["initial"] > 0 and result["loss"]["final"] is None
    assert len([line for line in record.read_metrics(tmp_path / "run") if "loss" in line]) == 2
    assert result["memory"]["peak_gib"]["train"] > 0


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "NCCL error: unhandled cuda error … Last error: Cuda failure 2 'out of memory'",
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory",
        "unable to mmap 1024 bytes from file <model.safetensors>: Cannot allocate memory (12)",
        "std::bad_alloc",
    ],
)
def test_a_library_without_memory_is_out_of_memory(message):
    from tuneoff.training.failures import classify_error

    assert classify_error(RuntimeError(message)) == "out_of_memory"


def test_other_errors_of_the_same_libraries_are_failures():
    from tuneoff.training.failures import classify_error

    for message in ("CUBLAS_STATUS_EXECUTION_FAILED", "CUDA error: device-side assert triggered"):
        assert classify_error(RuntimeError(message)) == "failed"


def test_no_number_before_training_is_a_failure_and_no_divergence(settings, tmp_path, monkeypatch):
    from tuneoff.training.run import train as train_here

    experiment, method, config = settings("method=full")
    prepare = method.prepare

    def poisoned(model):
        model.get_output_embeddings().weight.data.fill_(float("nan"))
        return prepare(model)

    method.prepare = poisoned
    # Which would refuse such a model first.
    monkeypatch.setattr("tuneoff.training.model_setup.check_causality", lambda *_: None)
    result = train_here(experiment, method, tmp_path, {"config": config})
    assert result["status"] == "failed" and result["error"]["type"] == "NotANumber"
    assert "before the first step" in result["error"]["message"]
    assert [line["step"] for line in result["curve"]] == [0]  # nothing was trained


def test_a_merge_that_fails_keeps_the_adapter(settings, tmp_path, monkeypatch):
    from tuneoff.training.run import train as train_here

    experiment, method, config = settings("method=lora", "save_model=true", "export_merged=true")

    def failing(model, folder):
        (folder / "merged").mkdir()
        raise RuntimeError("mixed types")

    monkeypatch.setattr(method, "export_merged", failing, raising=False)
    result = train_here(experiment, method, tmp_path, {"config": config})
    assert result["status"] == "failed" and result["error"]["message"] == "mixed types"
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
    assert (tmp_path / "model" / "tokenizer.json").exists()
    assert not (tmp_path / "model" / "merged").exists() and result["facts"]["covered_share"]


# ---------------------------------------------------------------- nothing of an earlier run is touched
def contents(folder):
    """Every file of a record, and of its checkpoints."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != record.LOCK]
    return {path: path.read_bytes() for path in files}


def tear(folder, name, size=100):
    for path in checkpoint.find_checkpoints(folder / "checkpoints"):
        with (path / name).open("r+b") as file:
            file.truncate(size)


def test_a_resume_that_cannot_begin_leaves_the_earlier_run_as_it_was(run, tmp_path):
    run("method=lora", "save_every=2", folder=tmp_path)
    (tmp_path / "result.json").unlink()  # as if it had been killed
    began = record.read_json(tmp_path / "run.json")
    began["provenance"]["base_weights_hash"] = "another"
    record.write_json(tmp_path / "run.json", began)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="has other weights than when this run began"):
        run("method=lora", "save_every=2", "resume=auto", folder=tmp_path)
    assert contents(tmp_path) == before
    tear(tmp_path, "state.pt")
    before = contents(tmp_path)
    with pytest.raises(record.NeverBegan, match="none of the 2 checkpoints can be read"):
        run("method=lora", "save_every=2", "resume=auto", folder=tmp_path)
    assert contents(tmp_path) == before
    for path in checkpoint.find_checkpoints(tmp_path / "checkpoints"):
        (path / "state.pt").unlink()
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")  # as the message advises
    assert (
        run("method=lora", "save_every=2", "resume=auto", folder=tmp_path)["status"] == "finished"
    )


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("base_weights_hash", r"model.path=\S+ has other weights"),
        ("data", r"data=\S+ has other rows"),
    ],
)
def test_a_resume_with_other_weights_or_rows_is_refused(settings, key, named):
    """Of the same names: a run went on from a base that was changed since, and said `finished`."""
    experiment, provenance = settings()[0], {"base_weights_hash": "a", "data": {"fingerprint": "a"}}
    for earlier in (None, {}, {"provenance": None}, {"provenance": provenance}):
        refuse_other_inputs(experiment, provenance, earlier)
    changed = {**provenance, key: "b" if key == "base_weights_hash" else {"fingerprint": "b"}}
    with pytest.raises(ConfigError, match=named):
        refuse_other_inputs(experiment, changed, {"provenance": provenance})


def test_a_rerun_that_fails_before_it_begins_leaves_the_earlier_result(run, tmp_path, monkeypatch):
    run("method=full", "save_every=2", folder=tmp_path)
    before = contents(tmp_path)

    def failing(session):
        raise MemoryError("no room for the model")

    monkeypatch.setattr("tuneoff.training.run.build", failing)
    with pytest.raises(record.NeverBegan, match="out_of_memory: MemoryError: no room"):
        run("method=full", "save_every=2", "rerun=true", folder=tmp_path)
    assert contents(tmp_path) == before


def test_what_cannot_be_read_is_kept_beside_and_the_rest_is_gone_on_from(run, tmp_path):
    whole = run("method=lora", "save_every=1", folder=tmp_path / "whole")
    folder = tmp_path / "run"
    run("method=lora", "save_every=1", folder=folder)
    newest = checkpoint.find_checkpoints(folder / "checkpoints")[-1]
    (newest / "state.pt").write_bytes(b"torn")
    (folder / "run.json").write_text("")
    (folder / "result.json").write_text('{"status": ')
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[1] = "no JSON"
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = run("method=lora", "save_every=1", "resume=auto", folder=folder)
    assert result["status"] == "finished" and result["resumed_at_step"] == 3
    assert result["loss"] == whole["loss"]
    assert (newest.with_name(f"{newest.name}.unreadable") / "state.pt").read_bytes() == b"torn"
    for name in ("run.json", "result.json", "metrics.jsonl"):
        assert (folder / f"{name}.unreadable").exists()
    steps = [line["step"] for line in record.read_metrics(folder) if "loss" in line]
    assert steps == [2, 3, 4]


@pytest.mark.slow
def test_a_lost_run_json_is_made_good_by_the_checkpoint(tmp_path, train):
    """Empty: the checkpoint says which run it is, when it began, and under which name trackers know it."""
    folder, words = tmp_path / "run", ["method=lora", "save_every=2"]
    assert train(folder, *words).returncode == 0
    before = record.read_json(folder / "run.json")
    (folder / "result.json").unlink()
    (folder / "run.json").write_text("")
    refused = train(folder, *words, f"resume={folder}", "lr=9e-3")
    assert refused.returncode == 2 and f"{folder} holds run " in refused.stderr
    again = train(folder, *words, f"resume={folder}")
    assert again.returncode == 0, again.stderr
    assert "run.json cannot be read" in again.stderr and "resumed after step 4" in again.stderr
    after = record.read_json(folder / "result.json")
    for key in ("identity", "started_at", "tracker_id"):
        assert after[key] == before[key]


@pytest.mark.slow
def test_a_single_run_whose_checkpoints_are_torn_says_so_in_a_line(tmp_path, train):
    folder, words = tmp_path / "run", ["method=lora", "save_every=2"]
    assert train(folder, *words).returncode == 0
    (folder / "result.json").unlink()
    tear(folder, "state.pt")
    before = {path: path.read_bytes() for path in contents(folder) if ".hydra" not in path.parts}
    done = train(folder, *words, f"resume={folder}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: failed: OSError: none of the 2")
    assert "Traceback" not in done.stderr and "keeps its earlier run" in last
    after = {path: path.read_bytes() for path in before if path.name != "run.log"}
    assert after == {path: text for path, text in before.items() if path.name != "run.log"}
