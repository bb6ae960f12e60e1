"""What is typed before Hydra reads it: words in any order, the home folder, YAMLs of one's own, and folders of results."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tuneoff.cli.arguments import list_home_words
from tuneoff.cli.own_yamls import read_own_yaml
from tuneoff.cli.run_folder import find_output_folder
from tuneoff.cli.typed_words import expand_home, put_keys_together
from tuneoff.config import ConfigError, find_invalid_keys
from tuneoff.record import describe_unusable


# ---------------------------------------------------------------- the order of words
@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("a=1 -cd mine -cn my b=2", "--config-name my --config-dir mine a=1 b=2"),
        ("a=1 -m b=2", "--multirun a=1 b=2"),
        ("a=1 --cfg job b=2 --resolve", "--cfg job --resolve a=1 b=2"),
        ("-cd mine a=1 b=2 -cn my", "--config-name my --config-dir mine a=1 b=2"),
        ("a=1 ~b -m", "--multirun a=1 ~b"),
        ("-m a=1 b=2", None),
        ("-m", None),
    ],
)
def test_keys_may_stand_on_both_sides_of_flags(typed, read):
    """Those at the end stay where they are: words of ours come behind them, and must not be parted from them."""
    words = put_keys_together(typed.split())
    assert words == (read or typed).split()


def test_an_unknown_flag_is_refused_wherever_it_stands():
    with pytest.raises(ConfigError, match="^command line: unrecognized arguments: --foo"):
        put_keys_together(["a=1", "--foo", "-m", "b=2"])


# ---------------------------------------------------------------- the home folder
@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("data.path=~/rows.jsonl", 'data.path="~/rows.jsonl"'),
        ("data.path='~/my rows.jsonl'", 'data.path="~/my rows.jsonl"'),
        ("data.path=~/a.csv,~/b.csv", 'data.path="~/a.csv","~/b.csv"'),
        ("hydra.run.dir=~/runs", "hydra.run.dir=/home/me/runs"),
        ('hydra.sweep.dir="~/a b"', 'hydra.sweep.dir="/home/me/a b"'),
        ("tuned=~", "tuned=/home/me"),
        ("--config-dir=~/mine", "--config-dir=/home/me/mine"),
        ("-cd ~/mine", "-cd /home/me/mine"),
        ("~lr", "~lr"),
        ("~method=galore", "~method=galore"),
        ("lr=1", "lr=1"),
    ],
)
def test_a_value_may_begin_with_the_home_folder(monkeypatch, typed, read):
    monkeypatch.setenv("HOME", "/home/me")
    split = " " if typed.startswith("-cd") else None
    words = typed.split(split) if split else [typed]
    assert expand_home(words) == (read.split(split) if split else [read])


def test_the_home_folder_in_a_yaml_is_said_again_for_hydra(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": "~/s"}}, "tuned": "~/t", "lr": 1})
    assert list_home_words([], config) == ["hydra.sweep.dir=/home/me/s", "tuned=/home/me/t"]
    assert list_home_words(["tuned=x", "hydra.sweep.dir=y"], config) == []


def test_resume_knows_the_home_folder(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    experiment, _, _ = settings("method=lora", "'resume=\"~/run\"'".strip("'"))
    assert experiment.resume == "~/run"


# ---------------------------------------------------------------- a YAML of one's own
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"max_steps: 1\n", "must begin with `defaults: .config, _self_.`"),
        (b"", "must begin with"),
        (b"word\n", "must begin with"),
        (b"3\n", "must begin with"),
        (b"- a\n", "must begin with"),
        (b"defaults: config\n", "must begin with"),
        (b"defaults: [_self_]\n", "must begin with"),
        (b"defaults: [my, _self_]\n", "must begin with"),
        (b"a: 1\n# \xe9\n", "line 2 has byte 0xe9, which is not UTF-8"),
        ("a: ü".encode("utf-16"), "line 1 has byte 0xff, which is not UTF-8"),
        (b"a: 1\nb: \0\n", "line 2 has character U.0000, which no YAML may hold"),
    ],
)
def test_a_yaml_that_hydra_could_not_use_is_refused_by_its_name(tmp_path, content, reason):
    file = tmp_path / "my.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"my.yaml: {reason}"):
        read_own_yaml(file, [tmp_path])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("method: galore", "method=galore: is chosen in .* {override method: galore}"),
        ("model: llama_60m", "model=llama_60m: is chosen in .* {override model: llama_60m}"),
        ("data: [alpaca, gsm8k]", "data=alpaca.gsm8k: is chosen in"),
    ],
)
def test_a_choice_in_the_body_of_a_yaml_is_refused(tmp_path, body, said):
    """It would give the name of one method to what another's options train."""
    file = tmp_path / "my.yaml"
    file.write_text(f"defaults: [config, _self_]\n{body}\n")
    with pytest.raises(ConfigError, match=said):
        read_own_yaml(file, [tmp_path])


def test_a_yaml_may_bring_the_settings_by_way_of_another(tmp_path):
    (tmp_path / "base.yaml").write_text("defaults: [/config, _self_]\n")
    (tmp_path / "my.yaml").write_text("defaults: [base, {override method: full}, _self_]\nlr: 1\n")
    assert read_own_yaml(tmp_path / "my.yaml", [tmp_path]).lr == 1
    (tmp_path / "config.yaml").write_text("lr: 1\n")
    with pytest.raises(ConfigError, match=r"stands in for tuneoff's own config.yaml"):
        read_own_yaml(tmp_path / "config.yaml", [tmp_path])


def test_a_config_without_settings_is_refused():
    ((key, _, allowed),) = find_invalid_keys(OmegaConf.create({"max_steps": 1}))
    assert key == "defaults" and "[config, _self_]" in allowed


# ---------------------------------------------------------------- folders of results
def test_a_folder_that_cannot_be_made_is_told_before_anything_is(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "dangling").symlink_to("nothing")
    long_name = "x" * 300
    for folder, reason in (
        (tmp_path / "new" / "deep", None),
        (tmp_path, None),
        (tmp_path / "file", "file is a file"),
        (tmp_path / "file" / "x", "file is a file"),
        (tmp_path / "new" / long_name, "more than 255 bytes"),
        (tmp_path.joinpath(*["x" * 200] * 30), "file name too long"),
        (tmp_path / "dangling", "dangling is a link to nothing"),
        (tmp_path / "dangling" / "x", "dangling is a link to nothing"),
        (tmp_path / "ring", "too many levels of symbolic links"),
        (Path("a\0b"), "null byte"),
        (Path("~nobody-at-all/x"), "there is no such user"),
    ):
        described = describe_unusable(folder)
        assert described == reason or reason in described, folder
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to write in" in describe_unusable(tmp_path / "new")


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_folder_of_results_has_a_name(key, tmp_path):
    config = OmegaConf.create({"hydra": {"run": {"dir": ""}, "sweep": {"dir": ""}}})
    with pytest.raises(ConfigError, match=f"^{key}=: must name a folder"):
        find_output_folder(config, key)
    OmegaConf.update(config, key, str(tmp_path))
    assert find_output_folder(config, key) == tmp_path
