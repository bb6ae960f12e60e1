"""A push uploads what a finished run has saved, with a card of its record, and no failure of it spoils the run."""

import json
import logging

import pytest
from helpers import bound
from local_hub import serve
from sweeping import plan

from tuneoff.config import ConfigError
from tuneoff.training import push
from tuneoff.training.export import name_base
from tuneoff.training.model_card import write_model_card

TOKEN = "hf_" + "a" * 34


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine, to which a token gives access."""
    from huggingface_hub import constants

    with serve({}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_a_finished_run_uploads_its_adapter_and_a_card_of_its_record(run, hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    name = "acme/my-adapter"
    result = run("method=lora", "save_model=true", f"push={name}")
    files = hub.uploads[name]
    saved = tmp_path / "run" / "model"
    for file in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        assert files[file] == (saved / file).read_bytes()
    card = files["README.md"].decode()
    assert f"pushed to {hub.endpoint}/{name}" in caplog.text
    assert TOKEN not in card and str(tmp_path.parent) not in card
    for part in (
        'library_name: "peft"',
        f"{result['loss']['final']:.4f}",
        f"| lr | {result['config']['lr']} |",
        f"| torch | {result['provenance']['versions']['torch']} |",
    ):
        assert part in card


def test_what_the_hub_refuses_leaves_the_run_finished_and_says_how_to_go_on(run, hub, caplog):
    result = run("method=lora", "save_model=true", "push=broken/name")
    assert result["status"] == "finished"
    warning = next(line for line in caplog.messages if line.startswith("push="))
    assert warning.startswith(f"push=broken/name: {hub.endpoint} fails: Server error")
    assert "; the run is finished, and this uploads it: hf upload broken/name " in warning


def test_a_card_names_hub_models_and_sets_and_hides_secrets_and_folders():
    experiment, _, config = bound("method=full", "data=gsm8k", "max_steps=1", "lr=1e-3")
    config["model"] |= {"path": "acme/base", "name": "base", "revision": "v1"}
    result = {
        "method": "full",
        "config": config,
        "command": ["python", "train.py", f"x_token={TOKEN}", "data.path=/home/me/rows.jsonl"],
        "provenance": {"data": {"rows": {"train": 7473}}, "versions": {"torch": "2.0"}},
        "loss": {"initial": 2.0, "final": 1.0, "test": None},
        "metrics": {"exact_match_by_set": {"a": 0.5}},
        "parameters": {"trainable": 1000},
        "memory": {"peak_gib": {"train": 1.5}},
    }
    card = write_model_card(result, "acme/base", is_adapter=False)
    head = card.split("---")[1]
    facts = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert json.loads(facts["base_model"]) == "acme/base"
    assert json.loads(facts["datasets"]) == ["openai/gsm8k"]
    assert "from acme/base (revision v1) with the method `full` on 7,473 training rows" in card
    assert "| exact match by set, a | 0.5000 |" in card
    assert TOKEN not in card and "/home/me" not in card and "…/rows.jsonl" in card
    assert "wandb" not in card, "what changes no result is not told"


@pytest.mark.parametrize(
    ("words", "token", "allowed"),
    [
        (["push=acme/x"], TOKEN, "needs save_model=true"),
        (["push=x", "save_model=true"], TOKEN, "must be a name on the hub"),
        (["push=acme/x", "save_model=true"], "", "needs a token in HF_TOKEN"),
    ],
)
def test_what_cannot_be_pushed_is_refused_at_once(hub, monkeypatch, words, token, allowed):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(ConfigError, match=allowed):
        bound("model.pretrained=false", *words)


def test_two_jobs_of_a_sweep_do_not_upload_to_one_place(hub):
    words = ["-m", "seed=0,1", "save_model=true", "method=lora"]
    with pytest.raises(ConfigError, match="two jobs would upload to it"):
        plan(*words, "push=acme/x")
    assert len(plan(*words, "push='acme/x-${seed}'")) == 2


def test_an_adapter_says_of_which_revision_its_base_is(tmp_path):
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "acme/base"}')
    for path, revision in (("acme/other", None), ("acme/base", "v1")):
        experiment, _, _ = bound(f"model.path={path}", "model.revision=v1")
        name_base(tmp_path, experiment)
        assert json.loads(config.read_text()).get("revision") == revision


def test_ctrl_c_while_uploading_leaves_the_run_finished(monkeypatch, tmp_path, caplog, hub):
    def stop(model, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(push, "upload", stop)
    monkeypatch.setattr(push, "write_model_card", lambda *rest: "card")
    experiment, _, _ = bound("model.pretrained=false", "push=acme/x", "save_model=true")
    (tmp_path / "model").mkdir()
    push.push_model(experiment, tmp_path, {"status": "finished"})
    assert "push=acme/x: stopped; the run is finished" in caplog.text
