"""Tuned settings: the best of the recorded trials become overrides of a comparison."""

import zlib
from pathlib import Path

import pytest
from helpers import ROOT, composed
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from sweeping import SWEEPS, counted, plan, results

from tuneoff import record
from tuneoff.config import ConfigError, check_config, resolve_config
from tuneoff.sweeps import trials
from tuneoff.sweeps import tuning as tuned


def trial(
    folder: Path, method: str, lr: float, loss: float | None, seed: int = 0, **config
) -> None:
    """A finished (or, without a loss, diverged) trial's record."""
    place = folder / method / f"{lr}_{seed}_{len(config)}{zlib.crc32(str(config).encode())}"
    place.mkdir(parents=True)
    values = [f"{key}={value}" for key, value in config.items()]
    cfg = composed(f"method={method}", f"lr={lr}", f"seed={seed}", *values)
    record.write_json(
        place / "result.json",
        {
            "method": method,
            "seed": seed,
            "config": resolve_config(cfg),
            "status": "finished" if loss else "diverged",
            "loss": {"final": loss},
            "throughput": {"tokens_seen": 100, "wall_seconds": 2.0},
            "command": ["python", "train.py", "-cd", "sweeps", "-cn", "tune", "seed=0"],
        },
    )


@pytest.fixture
def tuning(tmp_path):
    """Two methods' trials: full is best inside its grid, lora on its upper edge."""
    for lr, full, lora in (
        (1e-4, 2.0, 3.0),
        (1e-3, 1.0, 2.5),
        (1e-2, 1.5, 2.0),
        (1e-1, None, None),
    ):
        trial(tmp_path, "full", lr, full)
        if lr < 0.1:
            trial(tmp_path, "lora", lr, lora)
    tuned.read_tunings.cache_clear()
    trials.find_unread_trials.cache_clear()
    return tmp_path


def test_tuned_values_become_plain_overrides(tuning):
    jobs = plan("-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full,lora")
    assert len(jobs) == 10
    assert {(job[1], job[-1]) for job in jobs} == {
        ("method=full", "lr=0.001"),
        ("method=lora", "lr=0.01"),
    }
    given = plan(
        "-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full", "lr=0.5", "seed=7"
    )
    assert [word for word in given[0] if word.startswith("lr=")] == ["lr=0.5"]
    with pytest.raises(
        ConfigError, match="holds no finished run of method=dora on model=tiny and data=docstrings"
    ):
        plan("-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=dora")


def test_edges_costs_and_overridden_values_are_told(tuning):
    found = {each.method: each for each in tuned.read_tunings(str(tuning))}
    assert found["full"].describe_extension() is None and found["full"].best == {"lr": 0.001}
    assert found["full"].cost == {
        "jobs": 4,
        "tokens": 400,
        "seconds": 8.0,
    }  # the diverged trial too
    assert found["full"].space == {"lr": [1e-4, 1e-3, 1e-2, 1e-1]}
    assert found["lora"].describe_extension().splitlines()[1].strip() == (
        "python train.py -cd sweeps -cn tune seed=0 method=lora lr=0.1,1"
    )
    task = compose_task("method=lora", "lr=0.5", "seed=0", f"tuned={tuning}")
    values, notes = tuned.find_tuned_overrides(task, {"lr"})
    assert values == [] and notes[0] == "lora: lr is given, so the tuned lr=0.01 is not used"
    assert (
        notes[1] == "seed=0 was tuned on; a comparison needs fresh seeds"
        and "on the edge" in notes[2]
    )
    facts = tuned.describe_tuning(task, ["method=lora", "lr=0.5"])
    assert (
        facts["edge"] is True
        and facts["overridden"] == {"lr": "0.5"}
        and facts["method_cost"]["jobs"] == 3
    )


def test_the_best_is_the_mean_over_seeds_and_needs_them_all(tmp_path):
    for lr, losses in ((1e-3, (1.0, 3.0)), (1e-2, (1.8, 1.9)), (1e-1, (1.0, None))):
        for seed, loss in enumerate(losses):
            trial(tmp_path, "full", lr, loss, seed)
    tuned.read_tunings.cache_clear()
    [found] = tuned.read_tunings(str(tmp_path))
    assert found.best == {"lr": 1e-2}


def test_trials_of_another_budget_are_a_tuning_of_their_own(tmp_path):
    for lr, loss in ((1e-3, 1.0), (1e-2, 2.0)):
        trial(tmp_path, "full", lr, loss, max_steps=90)
    for lr, loss in ((1e-3, 0.9), (1e-2, 0.5), (1e-1, 0.6)):
        trial(tmp_path, "full", lr, loss, max_steps=60)
    tuned.read_tunings.cache_clear()
    assert len(tuned.read_tunings(str(tmp_path))) == 2
    for steps, best in ((90, "lr=0.001"), (60, "lr=0.01")):
        task = compose_task("method=full", f"max_steps={steps}", "seed=7", f"tuned={tmp_path}")
        values, _ = tuned.find_tuned_overrides(task, ())
        assert values == [best]
    facts = tuned.describe_tuning(task, [])
    assert facts["method_cost"]["jobs"] == 3
    task = compose_task("method=full", "max_steps=30", "seed=7", f"tuned={tmp_path}")
    with pytest.raises(ConfigError, match="budget .max_steps=.0 there, max_steps=30 here"):
        tuned.find_tuned_overrides(task, ())


def damage(folder: Path, content: str) -> None:
    """Put this in the place of a trial's result, and beside it the start of a record."""
    (folder / "run.json").write_text('{"method": "full"}')
    (folder / "result.json").write_text(content)


@pytest.mark.parametrize("content", ["{", "", '{"schema_version": 99}', '{"loss": {"final": NaN}}'])
def test_trials_that_cannot_be_read_are_told_of(tuning, content):
    [best] = (tuning / "full").glob("0.001_*")
    damage(best, content)
    tuned.read_tunings.cache_clear()
    trials.find_unread_trials.cache_clear()
    task = compose_task("method=full", "seed=7", f"tuned={tuning}")
    values, notes = tuned.find_tuned_overrides(task, ())
    assert values == ["lr=0.01"]
    assert notes[0].startswith(f"full: 1 of the runs in {tuning} have no result that can be read")
    task = compose_task("method=lora", "seed=7", f"tuned={tuning}")
    assert not any("can be read" in note for note in tuned.find_tuned_overrides(task, ())[1])


def test_a_run_without_a_result_and_failed_ones_are_told_of(tuning):
    folder = tuning / "full" / "begun"
    folder.mkdir()
    (folder / "run.json").write_text('{"method": "full"}')
    [worst] = (tuning / "full").glob("0.0001_*")
    result = record.read_json(worst / "result.json")
    record.write_json(worst / "result.json", {**result, "status": "failed"})
    tuned.read_tunings.cache_clear()
    trials.find_unread_trials.cache_clear()
    task = compose_task("method=full", "seed=7", f"tuned={tuning}")
    values, notes = tuned.find_tuned_overrides(task, ())
    assert values == ["lr=0.001"]
    assert str(folder) in notes[0]
    assert notes[1].startswith("full: 1 of its 4 trials failed or were interrupted")


def test_a_tuned_value_that_cannot_be_names_the_folder(tuning):
    [best] = (tuning / "full").glob("0.001_*")
    result = record.read_json(best / "result.json")
    config = {**result["config"], "lr": -1.0}
    record.write_json(best / "result.json", {**result, "config": config})
    tuned.read_tunings.cache_clear()
    with pytest.raises(ConfigError, match=r"^tuned=.*: its best trial has lr=-1.0: must be above"):
        plan("-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full")


def test_other_keys_that_were_searched_are_tuned_too(tmp_path):
    for rank, loss in ((8, 2.0), (16, 1.0), (32, 1.5)):
        trial(tmp_path, "lora", 1e-2, loss, lora_rank=rank)
    tuned.read_tunings.cache_clear()
    [found] = tuned.read_tunings(str(tmp_path))
    assert found.best == {"lora_rank": 16, "lr": 1e-2} and found.describe_extension() is None


def test_the_options_of_a_tuner_are_tuned_by_their_own_keys(tmp_path):
    """All that stands below `peft` was one value, which no command line can say."""
    for rank, loss in ((8, 2.0), (16, 1.0), (32, 1.5)):
        trial(tmp_path, "vera", 1e-2, loss, **{"peft.r": rank})
    tuned.read_tunings.cache_clear()
    [found] = tuned.read_tunings(str(tmp_path))
    assert found.space == {"lr": [1e-2], "peft.r": [8, 16, 32]}
    compare = ["-cd", str(SWEEPS), "-cn", "compare", f"tuned={tmp_path}", "method=vera", "seed=7"]
    [job] = plan(*compare)
    assert job[-2:] == ["lr=0.01", "peft.r=16"]
    other = r"peft\.d_initial \(0\.1 there, 0\.5 here\)"
    with pytest.raises(ConfigError, match=f"tuned under other settings: {other}"):
        plan(*compare, "peft.d_initial=0.5")


@pytest.mark.parametrize(
    ("words", "differs"),
    [
        (["max_steps=90"], r"budget \(max_steps=180 there, max_steps=90 here\)"),
        (["epochs=2"], r"budget \(max_steps=180 there, epochs=2.0 here\)"),
        (["batch_size=4"], r"batch_size \(8 there, 4 here\)"),
        (["max_length=64"], r"max_length \(256 there, 64 here\)"),
        (["pure_bf16=true"], r"dtype \(float32 there, bfloat16 here\)"),
        (
            ["weight_decay=0.1", "warmup_ratio=0"],
            "weight_decay .*, warmup_ratio|warmup_ratio .*, w",
        ),
    ],
)
def test_what_was_tuned_under_other_settings_is_refused_by_name(tuning, words, differs):
    compare = ["-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full", "seed=7"]
    with pytest.raises(
        ConfigError, match=f"method=full was tuned under other settings: .*{differs}"
    ):
        plan(*compare, *words)
    [job] = plan(*compare, *words, "tuned_anyway=true")
    assert "lr=0.001" in job
    facts = tuned.describe_tuning(compose_task("method=full", f"tuned={tuning}", *words), [])
    assert facts["differs"] and differs.partition(" ")[0].split("|")[0] in facts["differs"]


def test_settings_that_mean_the_same_or_change_no_training_are_no_difference(tuning):
    compare = ["-cd", str(SWEEPS), "-cn", "compare", f"tuned={tuning}", "method=full", "seed=7"]
    same = ["max_steps=180", "dtype=float32", "eval_every=5", "exact_match=whole", "save_every=9"]
    assert len(plan(*compare, *same)) == 1
    facts = tuned.describe_tuning(compose_task("method=full", f"tuned={tuning}", *same), [])
    assert facts["differs"] == {}


def test_the_command_that_tunes_repeats_the_users_own_arguments(tuning, monkeypatch):
    typed = ["train.py", "-cd", "sweeps", "-cn", "compare", f"tuned={tuning}", "seed=1,2"]
    typed.append("dry_run=true")
    typed += ["data=json", "data.path=my rows.jsonl", "max_steps=9"]
    assert tuned.write_tuning_command(typed) == (
        "python train.py -cd sweeps -cn tune data=json 'data.path=my rows.jsonl' max_steps=9"
    )
    of_a_problem = ["train.py", "-cd", "sweeps", "-cn", "smollm2_gsm8k_compare", "data.path=x"]
    assert tuned.write_tuning_command(of_a_problem) == (
        "python train.py -cd sweeps -cn smollm2_gsm8k_tune data.path=x"
    )
    plain = ["train.py", "-m", "method=lora,full", "tuned=x"]
    assert tuned.write_tuning_command(plain) == (
        "python train.py -cd sweeps -cn tune method=lora,full"
    )
    task = compose_task("method=full", f"tuned={tuning}", "data.limit=9")
    with pytest.raises(ConfigError, match=r"one with data.limit \(null there, 9 here\)"):
        tuned.find_tuning(task)


def compose_task(*words: str):
    """The task's part of a config, as a sweep's job has it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        config = hydra.compose_config("config", list(words), RunMode.RUN, False)
        return resolve_config(check_config(config))


@pytest.mark.slow
def test_tune_then_compare(sweep, tmp_path):
    """The protocol end to end, with two methods: rates from the records, one data order and one base a seed."""
    common = ["method=full,lora", "max_steps=3"]
    folder = f"hydra.sweep.dir={tmp_path / 'tune'}"
    code, out, err = sweep(
        "-cd", SWEEPS, "-cn", "tune", *common, folder, "hydra.sweeper.around.lr='0.1,1'"
    )
    assert code == 0 and "is on the edge of its grid; search on with" in err, out + err
    code, out, err = sweep(
        "-cd", SWEEPS, "-cn", "compare", *common, "seed=1,2", f"tuned={tmp_path / 'tune'}"
    )
    assert code == 0 and counted(out)["finished"] == 4, out + err
    best = {each.method: each.best["lr"] for each in tuned.read_tunings(str(tmp_path / "tune"))}
    found = results(tmp_path / "sweep")
    for name, result in found.items():
        method = name.split()[0]
        assert result["config"]["lr"] == best[method] and result["loss"]["test"] is not None
        assert (
            result["tuning"]["best"]["lr"] == best[method]
            and result["tuning"]["method_cost"]["jobs"] == 2
        )
        assert result["planned_seeds"] == [1, 2]
        assert result["lr_source"] == "tuned"
    for path in (tmp_path / "sweep").rglob("overrides.yaml"):
        assert any(word == f"lr={best[path.parents[2].name]:g}" for word in OmegaConf.load(path)), (
            path
        )
    for seed in (1, 2):
        for key in ("batch_order_hash", "base_weights_hash"):
            assert (
                len({found[f"{method} {seed}"]["provenance"][key] for method in ("full", "lora")})
                == 1
            )
    assert (
        found["full 1"]["provenance"]["batch_order_hash"]
        != found["full 2"]["provenance"]["batch_order_hash"]
    )
