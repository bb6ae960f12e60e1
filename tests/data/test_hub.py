"""The hub's ways of failing, each told in one line, by the real clients against a hub on this machine."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TINY
from local_hub import serve
from safetensors.torch import save_file
from sets import pairs

# Loads what it is asked for, and prints what came of each.
CHILD = """
import json, logging, sys, time
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
from tuneoff.config import ConfigError, Data, Model
from tuneoff.data.sources import open_source
from tuneoff.methods._lora_stored import read_adapter
from tuneoff.models.loading import load_config
from tuneoff.models.tokenizer import load_tokenizer
started = time.monotonic()
answers = []
for kind, name in json.loads(sys.argv[1]):
    try:
        if kind == "datasets":
            rows = open_source(Data("t", name)).read()
            answers.append(len(list(rows["train"])))
        elif kind == "adapters":
            answers.append(read_adapter(name)["r"])
        else:
            path, _, revision = name.partition("@")
            model = Model(name="t", path=path, revision=revision or None)
            load_config(model)
            answers.append(len(load_tokenizer(model)))
    except ConfigError as error:
        answers.append(str(error))
print(json.dumps([time.monotonic() - started, answers]))
"""


def load_in_child(endpoint: str, home, asked: list[tuple[str, str]], **environment):
    """Seconds that loading took, what came of each that was asked for, and what was logged."""
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    variables |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **environment,
    }
    command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(asked)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seconds, answers = json.loads(done.stdout.splitlines()[-1])
    return seconds, answers, done.stderr


def save_adapter(folder):
    """A LoRA of rank 4, as PEFT writes one."""
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(4, 64)}, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    import datasets

    folder = tmp_path_factory.mktemp("pairs")
    datasets.Dataset.from_list(pairs(20)).to_parquet(folder / "train-0.parquet")
    adapter = save_adapter(tmp_path_factory.mktemp("adapter"))
    folders = {("models", "acme/tiny"): TINY, ("models", "cut/tiny"): TINY}
    folders[("models", "acme/adapter")] = adapter
    with serve({**folders, ("datasets", "acme/pairs"): folder}) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(hub, tmp_path_factory):
    """A cache into which a model and a set were fetched, and what that printed."""
    home = tmp_path_factory.mktemp("home")
    asked = [("models", "acme/tiny"), ("datasets", "acme/pairs")]
    _, answers, log = load_in_child(hub.endpoint, home, asked)
    assert answers == [4096, 20]
    return home, log


def test_a_model_and_a_set_of_the_hub_are_fetched_without_a_word(hub, home):
    assert "HTTP Request" not in home[1] and hub.endpoint not in home[1]
    assert any("/resolve/" in request for request in hub.requests)


@pytest.mark.slow
def test_a_revision_is_what_is_fetched_and_one_that_is_not_there_is_told(hub, tmp_path):
    asked = [("models", "acme/tiny@v1"), ("models", "acme/tiny@nope")]
    _, answers, _ = load_in_child(hub.endpoint, tmp_path, asked)
    assert answers[0] == 4096
    assert any("/acme/tiny/revision/v1" in request for request in hub.requests)
    assert answers[1] == f"model.revision=nope: {hub.endpoint} has no such revision of acme/tiny"


@pytest.mark.slow
def test_what_the_hub_refuses_is_told_with_what_helps(hub, tmp_path):
    asked = {
        ("models", "gated/tiny"): "model.path=gated/tiny: is gated: ask for access at "
        f"{hub.endpoint}/gated/tiny, and give a token in HF_TOKEN or by `hf auth login`",
        ("datasets", "gated/set"): "data.path=gated/set: is gated: ask for access at "
        f"{hub.endpoint}/gated/set, and give a token in HF_TOKEN or by `hf auth login`",
        ("models", "acme/none"): f"model.path=acme/none: {hub.endpoint} has no acme/none, "
        "or it is private and needs a token in HF_TOKEN",
        ("datasets", "acme/none"): f"data.path=acme/none: {hub.endpoint} has no acme/none, "
        "or it is private and needs a token in HF_TOKEN",
        ("models", "cut/tiny"): "model.path=cut/tiny: the download was cut off; "
        "the same command goes on with it",
    }
    _, answers, log = load_in_child(hub.endpoint, tmp_path, list(asked))
    assert answers == list(asked.values())
    assert hub.endpoint not in log  # the error is all that is told
    signed = load_in_child(
        hub.endpoint, tmp_path, [("models", "gated/tiny"), ("models", "broken/m")], HF_TOKEN="hf_x"
    )[1]
    assert signed[0] == (
        "model.path=gated/tiny: is gated, and this token has no access; ask for it at "
        f"{hub.endpoint}/gated/tiny"
    )
    assert signed[1].startswith(f"model.path=broken/m: {hub.endpoint} fails: Server error '500")


@pytest.mark.slow
def test_without_a_network_what_is_cached_is_used_at_once(home, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"  # nobody listens there
        cached = [("models", "acme/tiny"), ("datasets", "acme/pairs")]
        asked = [*cached, ("models", "acme/other"), ("datasets", "acme/other")]
        seconds, answers, log = load_in_child(endpoint, home[0], asked)
    assert answers[:2] == [4096, 20] and seconds < 60  # once 280
    assert answers[2].startswith("model.path=acme/other: acme/other is not in the cache, and")
    assert answers[3].startswith("data.path=acme/other: Couldn't reach 'acme/other' on the Hub")
    assert log.count(f"the hub ({endpoint}) cannot be reached") == 1
    assert "Retrying" not in log


@pytest.mark.slow
def test_an_adapter_of_the_hub_is_fetched_and_its_refusals_help(hub, tmp_path):
    asked = {
        "acme/adapter": 4,
        "acme/adapter@main": 4,
        "acme/adapter@gone": f"adapter_path=acme/adapter@gone: {hub.endpoint} has no such revision of acme/adapter",
        "acme/tiny": "adapter_path=acme/tiny: holds no adapter_config.json, so that it is no adapter",
        "acme/none": f"adapter_path=acme/none: {hub.endpoint} has no acme/none, "
        "or it is private and needs a token in HF_TOKEN",
        "gated/adapter": "adapter_path=gated/adapter: is gated: ask for access at "
        f"{hub.endpoint}/gated/adapter, and give a token in HF_TOKEN or by `hf auth login`",
    }
    _, answers, log = load_in_child(hub.endpoint, tmp_path, [("adapters", name) for name in asked])
    assert answers == list(asked.values())
    assert hub.endpoint not in log
    seconds, answers, _ = load_in_child(
        "http://127.0.0.1:1", tmp_path, [("adapters", "acme/adapter"), ("adapters", "acme/other")]
    )
    assert answers[0] == 4  # from the cache
    assert answers[1].startswith("adapter_path=acme/other: acme/other is not in the cache, and")
