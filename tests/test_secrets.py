"""Secrets: keys and texts that look like one are masked, wherever something is written, and nothing else is."""

import pytest

from tuneoff.cli.hydra_files import mask_yaml_file
from tuneoff.record import (
    Recorder,
    conclude_dead_run,
    write_prediction,
)
from tuneoff.record.secrets import is_secret_key, mask_secrets

SECRET = "s3cr3t-9f8e7d6c5b4a"
ISSUED = [
    "hf_" + "aB3" * 8,
    "ghp_" + "aB3" * 12,
    "sk-proj-" + "aB3" * 10,
    "eyJ" + "aB3" * 5 + ".aB3aB3aB3.x",
]


@pytest.mark.parametrize(
    "key",
    [
        "WANDB_API_KEY",
        "HF_TOKEN",
        "hydra.job.env_set.AWS_SECRET_ACCESS_KEY",
        "password",
        "db_passwd",
        "apiKey",
        "x-api-key",
        "Authorization",
        "client_secret",
        "token_value",
        "HF_TOKEN_2",
        "--api-key",
        "access_token",
        "private_key",
    ],
)
def test_keys_of_secrets_are_known(key):
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "tokenizer",
        "model.tokenizer",
        "max_tokens",
        "tokens",
        "tokens_seen",
        "data.end_token",
        "pad_token_id",
        "eos_token",
        "key",
        "primary_key",
        "path",
        "HF_TOKEN_FILE",
        "author",
        "secretary",
        "lr",
        "",
        "_",
    ],
)
def test_other_keys_are_not(key):
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    "text",
    [
        f"hydra.job.env_set.WANDB_API_KEY={SECRET}",
        f"++hydra.job.env_set.HF_TOKEN='{SECRET}'",
        f"hydra.job.env_set={{WANDB_API_KEY:{SECRET},OTHER:1}}",
        f"hydra.job.env_set={{A:1, 'HF_TOKEN': '{SECRET}'}}",
        f'{{"password": "{SECRET}"}}',
        f"data.path=https://user:{SECRET}@example.org/rows.csv",
        f"data.path=https://{SECRET}@example.org/rows.csv",
        f"https://example.org/rows.csv?a=1&token={SECRET}&b=2",
        f"https://example.org/rows.csv?X-Amz-Signature={SECRET}",
        f"WANDB_API_KEY={SECRET} python train.py lr=1",
        f"python train.py 'hydra.job.env_set.DB_PASSWORD=two {SECRET}' lr=1",
        f"Authorization: Bearer {SECRET}",
        f"curl -H 'Authorization: Bearer {SECRET}'",
        f"A_TOKEN={SECRET},other",
        *ISSUED,
        *(f"wandb_project={token}" for token in ISSUED),
    ],
)
def test_a_text_loses_its_secrets_and_nothing_else(text):
    masked = mask_secrets(text)
    assert "***" in masked
    assert not [secret for secret in (SECRET, *ISSUED) if secret in masked]
    for left in ("lr=1", "example.org/rows.csv", "python train.py", "data.path=", "OTHER:1"):
        assert (left in masked) == (left in text)
    assert mask_secrets(masked) == masked


def test_a_command_loses_its_secrets_and_keeps_its_form():
    command = ["python", "train.py", "lr=1", f"+a.SOME_TOKEN=two words {SECRET}", "--token", SECRET]
    masked = mask_secrets(command)
    assert masked == ["python", "train.py", "lr=1", "+a.SOME_TOKEN=***", "--token", "***"]
    assert command[-1] == SECRET


def test_a_config_loses_its_secrets_at_every_depth():
    config = {
        "lr": 0.1,
        "model": {"tokenizer": "x", "config": {"pad_token_id": 0, "auth": {"user": "u"}}},
        "list": [{"HF_TOKEN": SECRET}, f"https://u:{SECRET}@h/"],
        "api_key": 12345,
        "password": None,
        "token": False,
    }
    assert mask_secrets(config) == {
        "lr": 0.1,
        "model": {"tokenizer": "x", "config": {"pad_token_id": 0, "auth": "***"}},
        "list": [{"HF_TOKEN": "***"}, "https://***@h/"],
        "api_key": "***",
        "password": None,
        "token": False,
    }


@pytest.mark.parametrize(
    "value",
    [
        "data.end_token=true",
        "max_tokens=1000",
        "hydra.job.env_set.HF_TOKEN=",
        "python train.py -m method=lora,dora 'lora_target=[q_proj,v_proj]' seed=0,1",
        "https://example.org/a?b=c#d",
        "data.revision=0123456789abcdef0123456789abcdef01234567",
        "git@example.org:a/b",
        "The tokenizer has no pad token, so its end token stands for it.",
        3.5,
        None,
    ],
)
def test_what_is_no_secret_stays(value):
    assert mask_secrets(value) == value
    assert mask_secrets([value]) == [value]


def test_a_long_text_is_masked_in_no_time():
    text = "a" * 300_000 + "=" * 1000 + "'" * 1000 + "://" * 1000
    assert mask_secrets(text) == text


@pytest.mark.parametrize("way", ["finished", "dead", "predicted"])
def test_no_record_holds_a_secret(tmp_path, way):
    start = {
        "command": ["python", "train.py", f"hydra.job.env_set.HF_TOKEN={SECRET}"],
        "config": {"data": {"path": f"https://u:{SECRET}@h/x"}},
    }
    error = {"type": "E", "message": f"https://u:{SECRET}@h/x: gone", "traceback": SECRET[:0]}
    if way == "finished":
        recorder = Recorder(tmp_path)
        recorder.start(start)
        recorder.describe({"tuning": {"overridden": {"HF_TOKEN": SECRET}}})
        recorder.finish("failed", {}, error)
        recorder.close()
    elif way == "dead":
        conclude_dead_run(tmp_path, start, "killed", error, 1.0)
    else:
        write_prediction(tmp_path, start, {"peak_gib": 1.0})
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "***" in written and SECRET not in written
    assert start["command"][-1].endswith(SECRET)


def test_a_file_that_hydra_is_writing_for_another_sweep_stays_as_it_is(tmp_path):
    """Several sweeps may train into one folder, as those beyond the edges of a tuning do."""
    torn = tmp_path / "multirun.yaml"
    torn.write_text("hydra:\n  run:\n    dir: outputs\ntas")
    mask_yaml_file(torn)
    assert torn.read_text().endswith("tas")
    mask_yaml_file(tmp_path / "gone.yaml")
    torn.write_text("password: mine\nother: 1\n")
    mask_yaml_file(torn)
    assert torn.read_text() == "password: '***'\nother: 1\n"
