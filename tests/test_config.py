"""Typed settings: every option of every method has a range or a type that holds, and a run's identity."""

import math
import time
from copy import deepcopy
from dataclasses import dataclass, fields
from enum import Enum

import pytest
from helpers import METHODS, ROOT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tuneoff import config, record
from tuneoff.config import (
    ConfigError,
    Data,
    Experiment,
    Model,
    Role,
    as_names,
    at_least,
    bind,
    derive_seed,
    find_columns,
    find_settings,
    format_value,
    identify_run,
    resolve_config,
    schemas,
    setting,
    suggest_nearest,
)
from tuneoff.config.paths import _hash_content, data_hash
from tuneoff.config.unused import refuse_unused
from tuneoff.methods import Method, register
from tuneoff.sweeps.tuning import never_tuned


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=["model.pretrained=false", *overrides])


OPTIONS = [
    pytest.param(schema.options, item, id=item.name)
    for schema in schemas().values()
    for item in fields(schema.options)
]


@pytest.mark.parametrize("method", METHODS)
def test_every_choice_binds_to_its_own_options(method):
    experiment, options = bind(composed(f"method={method}"))
    assert experiment.method == method
    assert type(experiment) is Experiment and isinstance(options, Method)
    assert not {item.name for item in fields(options)} & {item.name for item in fields(Experiment)}


@pytest.mark.parametrize(("cls", "item"), OPTIONS)
def test_every_number_has_a_range_that_its_default_is_in(cls, item):
    if (
        item.metadata.get("names")
        or isinstance(item.default, bool | Enum)
        or "str" in str(item.type)
    ):
        return
    accepts, allowed = item.metadata["accepts"], item.metadata["allowed"]
    assert allowed.startswith("must ")
    assert item.default is None or accepts(item.default)
    if "float" in str(item.type):
        assert not accepts(math.nan) and not accepts(math.inf)
    refused = next(value for value in (0, -2) if not accepts(value))
    with pytest.raises(ConfigError, match=item.name):
        cls(**{item.name: refused})


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("all", ["all"]),
        ("a,b", ["a", "b"]),
        (" a , b.c ", ["a", "b.c"]),
        (["a", "b"], ["a", "b"]),
        (None, None),
    ],
)
def test_names_are_a_list_however_written(value, names):
    assert as_names("key", value) == names


@pytest.mark.parametrize("value", [3, "", "a,", ["a", 3], [], ["a", "a"], "all,a", {"a": 1}, True])
def test_names_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match="^key="):
        as_names("key", value)


def test_a_bare_list_and_a_quoted_string_give_the_same_config():
    lists = [
        bind(composed(f"lora_target={value}"))[1].lora_target
        for value in ("[q_proj,v_proj]", "'q_proj,v_proj'")
    ]
    assert lists == [["q_proj", "v_proj"]] * 2


def test_values_are_shown_as_they_are_written():
    values = [None, True, False, 1e-5, ["a", None], config.Dtype.float32, config.MixedPrecision.no]
    assert [format_value(value) for value in values] == [
        "null",
        "true",
        "false",
        "1e-05",
        "[a,null]",
        "float32",
        "no",
    ]


def test_an_option_may_not_shadow_a_hook_or_a_shared_setting():
    for name in ("prepare", "lr"):
        with pytest.raises(TypeError, match=name):
            register(dataclass(type("Bad", (Method,), {"__annotations__": {name: int}, name: 1})))


def test_dtype_follows_pure_bf16():
    assert bind(composed())[0].dtype is config.Dtype.float32
    assert bind(composed("pure_bf16=true"))[0].dtype is config.Dtype.bfloat16
    assert bind(composed("pure_bf16=true", "dtype=bfloat16"))[0].dtype is config.Dtype.bfloat16


def test_the_budget_is_the_one_that_is_given():
    assert bind(composed("data.default_steps=33"))[0].budget == ("max_steps", 33)
    assert bind(composed("max_tokens=1000"))[0].budget == ("max_tokens", 1000)


def test_without_a_budget_the_data_have_their_own():
    assert bind(composed())[0].budget == ("max_steps", 180)
    assert bind(composed("data=gsm8k"))[0].budget == ("epochs", 3)
    assert bind(composed("data=gsm8k", "data.default_epochs=1"))[0].budget == ("epochs", 1)
    assert (bind(composed())[0].max_length, bind(composed("data=gsm8k"))[0].max_length) == (
        256,
        512,
    )
    assert bind(composed("data=gsm8k", "max_length=99"))[0].max_length == 99


@pytest.mark.parametrize("method", METHODS)
def test_the_default_rate_is_that_of_the_model_at_hand(method):
    """The model that ships has 6 million parameters; its rates are wrong by ten times and more for larger ones."""
    shipped = composed(f"method={method}")
    usual = composed(f"method={method}", "model.path=org/large")
    assert 1e-6 <= bind(usual)[0].lr <= 5e-4 <= bind(shipped)[0].lr
    given = composed(f"method={method}", "lr=1e-3")
    sources = [config.find_lr_source(cfg) for cfg in (shipped, usual, given)]
    assert sources == ["default", "default", "given"]


def test_null_takes_back_what_a_yaml_has(settings):
    experiment, _, _ = settings("exact_match=null", "exact_match_limit=null")
    refuse_unused(experiment, {"exact_match_limit"})
    experiment.exact_match_limit = 3
    with pytest.raises(ConfigError, match="exact_match_limit=3: needs exact_match"):
        refuse_unused(experiment, set())


def test_unused_mixed_precision_reads_as_no():
    assert bind(composed("mixed_precision=no"))[0].mixed_precision is config.MixedPrecision.no


def test_identity_changes_with_what_changes_a_result_and_with_nothing_else():
    first = identify_run(composed())
    assert first == identify_run(
        composed("tracker=none", "progress=false", "wandb_project=other", "save_every=5")
    )
    others = [
        identify_run(composed(change))
        for change in ("seed=1", "lr=7e-3", "method=dora", "data.limit=5")
    ]
    assert len({first, *others}) == 5


def test_the_number_of_processes_is_the_launchers_when_a_config_is_checked(monkeypatch):
    alone = composed()
    assert bind(alone)[0].num_processes == resolve_config(alone)["num_processes"] == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    launched = composed()
    assert bind(launched)[0].num_processes == resolve_config(launched)["num_processes"] == 2
    assert identify_run(launched) == identify_run(composed("num_processes=2"))
    with pytest.raises(ConfigError, match="num_processes=3: must be 2, as many as were launched"):
        bind(composed("num_processes=3"))


def test_identity_changes_with_the_data_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    found = set()
    for text in ('{"text": "a"}', '{"text": "b"}'):
        path.write_text(text)
        found.add(identify_run(composed(f"data.path={path}")))
    assert len(found) == 2


def test_a_data_file_is_read_once_for_all_points_of_a_sweep(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}')
    first = data_hash(path)
    before = _hash_content.cache_info().misses
    assert data_hash(path) == first and _hash_content.cache_info().misses == before
    path.write_text('{"text": "longer"}')
    assert data_hash(path) != first


def test_every_purpose_has_its_own_seed():
    assert (
        len(
            {
                derive_seed(seed, purpose)
                for seed in (0, 1)
                for purpose in ("modules", "order", "dropout")
            }
        )
        == 6
    )
    assert derive_seed(0, "order") == derive_seed(0, "order")


def test_the_record_names_what_the_settings_say_they_are_for():
    """`record/schema.py` is what a report knows of the settings where omegaconf is not installed."""
    assert find_settings(Experiment, Role.INCIDENTAL) == record.INCIDENTAL
    assert set(find_settings(Experiment, Role.NOT_PREDICTED)) == set(record.NOT_PREDICTED)
    assert find_columns(Experiment) == record.COLUMNS
    assert config.BUDGETS == ("epochs", "max_steps", "max_tokens", "max_seconds")


def test_a_method_says_what_its_own_options_are_for(monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "repo", deepcopy(ConfigStore.instance().repo))
    names = ("spoken", "judged", "plain")

    @dataclass
    class Told(Method):
        """Options with a role and without."""

        spoken: int = at_least(0, 0, Role.INCIDENTAL)
        judged: str = setting("a", Role.JUDGING)
        plain: int = at_least(0, 0)

    assert find_settings(Told, Role.INCIDENTAL | Role.JUDGING) == names[:2]
    schema = register(Told).schema
    first = OmegaConf.structured(schema)
    first.model, first.data = composed().model, composed().data
    identities = []
    for name, value in (("spoken", 1), ("judged", "b"), ("plain", 1)):
        other = deepcopy(first)
        other[name] = value
        identities.append(identify_run(other))
    assert identities[0] == identify_run(first)
    assert len({*identities}) == 3
    never_tuned_keys = never_tuned()
    assert {"spoken", "judged", "seed", "tracker", "max_steps"} <= never_tuned_keys
    assert not never_tuned_keys & {"plain", "lr", "batch_size"}


def test_a_refusal_is_one_short_line_whatever_was_typed():
    error = ConfigError("key\n", "x" * 5000 + "\x1b[31m", "must be\u2026 short")
    assert str(error) == f"key\\n={'x' * 200}…{'x' * 95}\\x1b[31m: must be… short"
    assert str(ConfigError("k", "a\tb\x1b[31m\ud800é", "no")) == "k=a\\tb\\x1b[31m\\ud800é: no"
    assert error.value.startswith("xxx") and len(error.value) > 5000


def test_a_long_word_resembles_nothing_and_takes_no_time():
    started = time.process_time()
    assert suggest_nearest("lora" * 1250, ["lora", "x" * 5000]) == ""
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("config", ["[" * 100_000, "5", '"quantization_config"', '{"a": 1', "[]"])
def test_a_strange_config_of_a_model_is_not_quantised(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    assert not Model("m", str(tmp_path)).quantised


@pytest.mark.parametrize(
    "overrides",
    [
        ["~lr", "++lr=abc"],
        ["~forgetting", "++forgetting=1"],
        ["~scheduler", "++scheduler=x"],
    ],
)
def test_a_key_that_is_removed_and_put_back_is_refused(overrides):
    with pytest.raises(ConfigError, match=f"^{overrides[0]}: cannot be removed"):
        bind(composed(*overrides))


def test_a_data_file_that_cannot_be_read_is_refused_by_its_key(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}')
    cfg = composed(f"data.path={tmp_path}")

    def denied(path):
        raise PermissionError(13, "Permission denied", f"{path}/rows.jsonl")

    monkeypatch.setattr("tuneoff.config.identity.data_hash", denied)
    with pytest.raises(
        ConfigError, match="^data.path=.*rows.jsonl cannot be read: Permission denied"
    ):
        identify_run(cfg)


@pytest.mark.parametrize(
    "path", ["/dev/null", "~nobody-x/rows.jsonl", "a/" + "x" * 5000, "a\0/b.csv", ""]
)
def test_a_path_that_cannot_be_looked_at_is_refused(path):
    with pytest.raises(ConfigError, match="^data.path=.*must be an existing file or folder|a hub"):
        Data("d", path).check()


def test_only_shipped_models_have_shipped_names():
    for name in ("tuneoff:", "tuneoff:corpus", "tuneoff:../assets/tiny"):
        for key in ("path", "tokenizer"):
            with pytest.raises(ConfigError, match=f"^model.{key}={name}: must be tuneoff:tiny"):
                Model("m", **{"path": "tuneoff:tiny", key: name}).check()


def test_a_file_of_ones_own_is_called_by_its_name(tmp_path):
    path = tmp_path / "my rows.jsonl.gz"
    path.write_bytes(b"")
    assert bind(composed("data=json", f"data.path='{path}'"))[0].data.name == "my rows"
    named = composed("data=json", f"data.path='{path}'", "data.name=ours")
    assert bind(named)[0].data.name == "ours"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.csv").write_text("text\na\n")
    second = composed("forgetting.data=json", f"forgetting.data.path={folder}")
    assert bind(second)[0].forgetting.data.name == "folder"
