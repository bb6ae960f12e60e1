"""What launchers leave in the environment: used where it makes sense, refused in one line where it makes none."""

import pytest

from tuneoff.cli.main import one_line
from tuneoff.distributed import launch

REFUSED = {
    "WORLD_SIZE=abc": "WORLD_SIZE=abc: must be a whole number, at least 1",
    "WORLD_SIZE=": "WORLD_SIZE=: must be a whole number",
    "WORLD_SIZE=0": "WORLD_SIZE=0: must be a whole number, at least 1",
    "WORLD_SIZE=-2": "WORLD_SIZE=-2: must be",
    "WORLD_SIZE=2.0": "WORLD_SIZE=2.0: must be",
    "WORLD_SIZE=²": r"WORLD_SIZE=\xb2: must be",
    "WORLD_SIZE=99999999999999999999": "WORLD_SIZE=99999999999999999999: must be",
    "RANK=x": "RANK=x: must be a whole number, at least 0",
    "LOCAL_RANK=x": "LOCAL_RANK=x: must be a whole number, at least -1",
    "LOCAL_WORLD_SIZE=x": "LOCAL_WORLD_SIZE=x: must be",
    "FSDP_VERSION=two": "FSDP_VERSION=two: must be",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE=": "ACCELERATE_DEEPSPEED_ZERO_STAGE=: must be",
    "WORLD_SIZE=2": "WORLD_SIZE=2: needs RANK too",
    "WORLD_SIZE=2 RANK=0": "WORLD_SIZE=2: needs MASTER_ADDR too",
    "WORLD_SIZE=2 RANK=2": "RANK=2: must be below WORLD_SIZE=2",
    "WORLD_SIZE=2 RANK=1 MASTER_ADDR=h MASTER_PORT=tcp://10.0.0.1:443": "MASTER_PORT=tcp://10.0.0.1:443: must be",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*launch.NUMBERS, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variables", REFUSED)
def test_a_variable_that_no_launcher_sets_is_one_line(monkeypatch, capsys, variables):
    for word in variables.split():
        monkeypatch.setenv(*word.split("=", 1))
    monkeypatch.setattr("sys.argv", ["train.py", "method=full"])
    assert one_line(pytest.fail) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {REFUSED[variables]}") and err.count("\n") == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"LOCAL_RANK": "-1"},
        {"MASTER_PORT": "tcp://10.0.0.1:443"},  # Kubernetes, of a service that is called master
        {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "29500"},
    ],
)
def test_what_launchers_set_passes(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launch.check_launch()
    assert launch.get_world_size() == int(variables.get("WORLD_SIZE", 1))


def test_the_accumulation_of_accelerates_own_config_divides_no_gradient(run, monkeypatch, tmp_path):
    plain = run("method=full", "max_steps=2", folder=tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    configured = run("method=full", "max_steps=2", folder=tmp_path / "configured")

    def norms(result):
        return [line["gradient_norm"] for line in result["curve"] if "gradient_norm" in line]

    assert norms(plain) == norms(configured) != []
