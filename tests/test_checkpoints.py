"""Checkpoints: a torn one takes no good one's place, and none runs code."""

import json
import os

import pytest
import torch

from tuneoff.training import checkpoint


def test_the_last_good_checkpoint_outlives_a_torn_write(tmp_path):
    for step in (2, 4, 6):
        checkpoint.save_checkpoint(
            tmp_path,
            checkpoint.Checkpoint(step, {"weight": torch.ones(3)}, {"x": torch.ones(1)}, {"a": 1}),
            keep=2,
        )
    assert [path.name for path in checkpoint.find_checkpoints(tmp_path)] == [
        "step_00000004",
        "step_00000006",
    ]
    with (tmp_path / "step_00000006" / "state.pt").open("r+b") as file:
        file.truncate(100)
    assert checkpoint.load_newest(tmp_path).step == 4
    with (tmp_path / "step_00000004" / "model.safetensors").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(OSError, match="none of the 2 checkpoints can be read"):
        checkpoint.load_newest(tmp_path)


def test_a_torn_checkpoint_takes_no_good_ones_place(tmp_path):
    for step in (2, 4):
        checkpoint.save_checkpoint(
            tmp_path, checkpoint.Checkpoint(step, {"weight": torch.ones(3)}, {}, {}), keep=2
        )
    (tmp_path / "step_00000004" / "state.pt").write_bytes(b"torn")
    checkpoint.save_checkpoint(
        tmp_path, checkpoint.Checkpoint(3, {"weight": torch.ones(3)}, {}, {}), keep=1
    )  # gone on from 2, then SIGTERM
    assert checkpoint.load_newest(tmp_path).step == 3


def test_a_kill_while_old_checkpoints_are_removed_leaves_a_whole_one(tmp_path, monkeypatch):
    """A run that is stopped right behind a save writes the same step again; removing takes time on a shared disk."""
    (tmp_path / ".step_00000002").mkdir()  # of a process that was killed while it saved
    remove = checkpoint.shutil.rmtree
    whole_ones = []

    def removing(path, **options):
        saved = checkpoint.load_newest(tmp_path)
        whole_ones.append(None if saved is None else saved.loop["a"])
        remove(path, **options)

    for number in (1, 2):
        saved = checkpoint.Checkpoint(4, {"weight": torch.ones(3)}, {}, {"a": number})
        checkpoint.save_checkpoint(tmp_path, saved, keep=1)
        monkeypatch.setattr(checkpoint.shutil, "rmtree", removing)
    assert whole_ones and None not in whole_ones
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]
    assert checkpoint.load_newest(tmp_path).loop == {"a": 2}


def test_a_checkpoint_goes_to_the_device_of_the_rank_that_reads_it(tmp_path, monkeypatch):
    """One that another rank's GPU wrote: without that GPU it is whole all the same."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
    state = {"optimizer": {"exp_avg": torch.ones(3)}}
    checkpoint.save_checkpoint(tmp_path, checkpoint.Checkpoint(2, {}, state, {}), keep=1)
    monkeypatch.undo()
    saved = checkpoint.load_newest(tmp_path, torch.device("cpu"))
    assert saved.state["optimizer"]["exp_avg"].device == torch.device("cpu")
    assert torch.equal(saved.state["optimizer"]["exp_avg"], torch.ones(3))


class Trap:
    """What runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickled_object_is_passed_over(tmp_path):
    for step in (2, 4):
        checkpoint.save_checkpoint(
            tmp_path, checkpoint.Checkpoint(step, {"weight": torch.ones(3)}, {}, {}), keep=2
        )
    newest = tmp_path / "step_00000004"
    torch.save({"optimizer": Trap(tmp_path / "sprung")}, newest / "state.pt")
    loop = json.loads((newest / "loop.json").read_text())
    loop["sizes"]["state.pt"] = (newest / "state.pt").stat().st_size
    (newest / "loop.json").write_text(json.dumps(loop))
    assert checkpoint.load_newest(tmp_path).step == 2
    assert not (tmp_path / "sprung").exists()
    torch.load(newest / "state.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()
