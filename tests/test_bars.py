"""Progress bars: ours and every library's obey `progress`."""

import io
from dataclasses import dataclass

import pytest
from tqdm import std

from tuneoff.config import SingleSet
from tuneoff.jobs.bars import show_bars
from tuneoff.jobs.data_check import DataCheck
from tuneoff.jobs.work import PredictWork, TrainWork


@dataclass
class Settings:
    """What `TrainWork` and `PredictWork` ask of an experiment."""

    progress: bool
    skip_if_over_gib: float | None = None


def draw_bars() -> str:
    """What the libraries' bars draw: a plain one, one that asks for itself, and the hub's."""
    from huggingface_hub.utils import tqdm as hub_tqdm
    from tqdm.auto import tqdm as auto_tqdm

    text = io.StringIO()
    for bar in (std.tqdm, auto_tqdm, hub_tqdm):
        with bar(range(3), desc="loading", disable=False, file=text) as steps:
            steps.set_description("loaded")
            steps.set_postfix(tokens=1)
            assert list(steps) == [0, 1, 2]
    return text.getvalue()


def test_no_bar_is_drawn_where_none_is_wanted_and_all_are_afterwards():
    with show_bars(False):
        assert draw_bars() == ""
    with show_bars(True):
        assert draw_bars().count("loaded: 100%") == 3
        # A semaphore would outlive a job that is stopped, and Python would tell of it behind our last line.
        assert not isinstance(std.tqdm.get_lock(), std.TqdmDefaultWriteLock)


@pytest.fixture(autouse=True)
def hub_bars():
    """The hub's own switch, which an earlier test may have turned off for its process."""
    from huggingface_hub import utils

    off = utils.are_progress_bars_disabled()
    utils.enable_progress_bars()
    yield
    if off:
        utils.disable_progress_bars()


@pytest.mark.parametrize("progress", [True, False])
def test_work_shows_the_bars_of_what_it_calls_as_its_settings_say(tmp_path, monkeypatch, progress):
    drawn = []

    def work(*_):
        drawn.append(draw_bars())
        return {"status": "finished"}

    monkeypatch.setattr("tuneoff.training.run.train", work)
    monkeypatch.setattr("tuneoff.predict.predict", work)
    monkeypatch.setattr("tuneoff.jobs.work.write_prediction", lambda *_: {})
    monkeypatch.setattr(DataCheck, "_read_rows", work)
    for work_type in (TrainWork, PredictWork):
        work_type(Settings(progress), None, tmp_path, {}).run()
    DataCheck(SingleSet(path="x"), (), progress=progress).run()
    assert [bool(text) for text in drawn] == [progress] * 3
