"""Which trial is chosen where seeds are missing, folders were copied or losses are equal; where a search goes on."""

import shutil
from pathlib import Path

import pytest
from sweeping import SWEEPS, plan
from test_tuning import compose_task, trial

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.sweeps import trials
from tuneoff.sweeps import tuning as tuned
from tuneoff.sweeps.search_on import find_extension


def read_tuning(folder: Path) -> tuned.Tuning:
    """The one tuning in a folder, as it is now."""
    tuned.read_tunings.cache_clear()
    trials.find_unread_trials.cache_clear()
    [found] = tuned.read_tunings(str(folder))
    return found


def add_trials(folder: Path, losses: dict[float, dict[int, float | None]]) -> None:
    """Trials of lora by their rate, then by their seed."""
    for rate, by_seed in losses.items():
        for seed, loss in by_seed.items():
            trial(folder, "lora", rate, loss, seed)


@pytest.mark.parametrize(
    ("losses", "best", "seeds"),
    [
        # A mean of three seeds is no match for the one that was the luckiest.
        ({1e-3: {0: 3.0, 1: 3.2, 2: 3.4}, 1e-2: {0: 3.1}}, 1e-3, "0"),
        (
            {1e-3: {0: 3.0, 1: 3.2}, 1e-2: {0: 3.1, 1: 3.0}, 1e-1: {0: 3.3, 1: 4.0, 2: 1.0}},
            1e-2,
            "0, 1",
        ),
        # Of no seed that all have, that of the most.
        ({1e-3: {0: 3.0}, 1e-2: {1: 2.0}, 1e-1: {0: 2.9}}, 1e-1, "0"),
        # What diverged with any seed is none to choose, though the others lack that seed.
        ({1e-3: {0: 3.0, 1: None}, 1e-2: {0: 3.1}}, 1e-2, "0"),
    ],
)
def test_values_are_compared_on_the_seeds_that_all_have(tmp_path, losses, best, seeds):
    add_trials(tmp_path, losses)
    found = read_tuning(tmp_path)
    assert found.best == {"lr": best}
    task = compose_task("method=lora", "seed=7", f"tuned={tmp_path}")
    _, notes = tuned.find_tuned_overrides(task, ())
    said = "lora: its values have results of different seeds; they are compared on seed "
    assert f"{said}{seeds}" in notes


def test_a_seed_that_was_cut_short_counts_as_missing(tmp_path):
    add_trials(tmp_path, {1e-3: {0: 3.0, 1: 3.2}, 1e-2: {0: 3.1}})
    [cut] = (tmp_path / "lora").glob("0.001_1_*")
    result = record.read_json(cut / record.RESULT)
    record.write_json(cut / record.RESULT, {**result, "status": "interrupted"})
    assert read_tuning(tmp_path).best == {"lr": 1e-3}


def test_the_same_seeds_everywhere_say_nothing(tmp_path):
    add_trials(tmp_path, {1e-3: {0: 3.0, 1: 3.2}, 1e-2: {0: 3.1, 1: 3.3}, 1e-1: {0: None, 1: None}})
    assert read_tuning(tmp_path).describe_seeds() == []


def test_a_copied_folder_is_one_trial(tmp_path):
    add_trials(tmp_path, {1e-3: {0: 3.0, 1: 3.4}, 1e-2: {0: 3.25, 1: 3.23}})
    [copied] = (tmp_path / "lora").glob("0.001_1_*")
    shutil.copytree(copied, tmp_path / "a copy")
    found = read_tuning(tmp_path)
    assert found.best == {"lr": 1e-3} and found.cost["jobs"] == 4
    # The copy that was made before the run came to its end says less.
    result = record.read_json(copied / record.RESULT)
    record.write_json(tmp_path / "a copy" / record.RESULT, {**result, "status": "interrupted"})
    assert read_tuning(tmp_path).best == {"lr": 1e-3}


def test_a_seed_that_was_run_twice_weighs_no_more_than_another(tmp_path):
    add_trials(tmp_path, {1e-3: {0: 3.0, 1: 3.4}, 1e-2: {0: 3.25, 1: 3.23}})
    trial(tmp_path, "lora", 1e-3, 3.4, 1, test=True)
    found = read_tuning(tmp_path)
    assert found.best == {"lr": 1e-3} and found.cost["jobs"] == 5


def test_of_equal_losses_the_lowest_rate_is_taken(tmp_path):
    for rank in (16, 8):
        for rate in (1e-2, 1e-4, 1e-3):
            trial(tmp_path, "lora", rate, 3.0, lora_rank=rank)
    assert read_tuning(tmp_path).best == {"lora_rank": 8, "lr": 1e-4}


@pytest.mark.parametrize("written", ["1e-3", "0.001", "1.0e-3"])
def test_the_tuned_value_written_otherwise_is_not_overridden(tmp_path, written):
    add_trials(tmp_path, {1e-4: {0: 3.1}, 1e-3: {0: 3.0}, 1e-2: {0: 3.2}})
    read_tuning(tmp_path)
    word = f"lr={written}"
    task = compose_task("method=lora", "seed=7", f"tuned={tmp_path}", word)
    assert tuned.describe_tuning(task, [word])["overridden"] == {}
    assert tuned.find_tuned_overrides(task, {"lr"}) == ([], [])


@pytest.mark.parametrize(
    ("key", "values", "best", "beyond"),
    [
        ("lora_rank", [1, 2], 1, None),
        ("lora_rank", [4, 8], 4, [2, 1]),
        ("lora_rank", [2, 3], 2, [1]),
        ("lora_rank", [8, 12], 12, [18, 27]),
        ("warmup_steps", [500_000, 1_000_000], 1_000_000, [2_000_000, 4_000_000]),
        ("warmup_ratio", [0.2, 0.4], 0.4, [0.8]),
        ("warmup_ratio", [0.3, 0.6], 0.6, None),
        ("lr", [0.1, 0.2], 0.1, [0.05, 0.025]),
        ("peft.r", [1, 4], 1, None),
    ],
)
def test_a_search_goes_on_with_values_that_can_be(key, values, best, beyond):
    found = find_extension({key: values}, {key: best}).get(key)
    assert found == beyond
    assert found is None or all(type(value) is type(best) for value in found)


def test_the_command_that_searches_on_writes_whole_numbers(tmp_path):
    for steps, loss in ((500_000, 2.0), (1_000_000, 1.0)):
        trial(tmp_path, "lora", 1e-3, loss, warmup_steps=steps)
    advice = read_tuning(tmp_path).describe_extension()
    assert advice.endswith(" warmup_steps=2000000,4000000")


HALVING = ["-cd", str(SWEEPS), "-cn", "tune", "method=lora", "tuning_schedule=halving"]


def test_halving_that_is_to_be_made_again_is_refused(tmp_path):
    words = [*HALVING, f"hydra.sweep.dir={tmp_path}"]
    assert len(plan(*words)) == 5
    with pytest.raises(ConfigError, match="^rerun=true: must be false with tuning_schedule"):
        plan(*words, "rerun=true")
    # As the table of a sweep advises of a trial that diverged.
    assert len(plan(*words, "rerun=true", "lr=1e-3")) == 1
