"""Contracts 2 and 5: the same command gives the same bits, and a seed's methods see the same data and weights."""
import pytest
from conftest import METHODS


def losses(result):
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in result["curve"]]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_command_twice_is_the_same_run(run, tmp_path, method):
    extra = ["galore_rank=8"] if "galore" in method else ["badam_switch_interval=2", "badam_switch_mode=random"]
    options = [f"method={method}", "max_steps=5", *(extra if method.startswith(("galore", "badam")) else [])]
    first, second = (run(*options, folder=tmp_path / name) for name in ("first", "second"))
    assert len(losses(first)) == 7
    assert losses(first) == losses(second)


def test_methods_of_a_seed_share_data_order_tokens_and_base_weights(run, tmp_path):
    seen = {}
    for method in METHODS:
        result = run(f"method={method}", "max_steps=3", *(["galore_rank=8"] if "galore" in method else []),
                     folder=tmp_path / method)
        origin = result["provenance"]
        seen[method] = (origin["base_weights_hash"], origin["batch_order_hash"], origin["data"]["fingerprint"],
                        result["throughput"]["tokens_seen"], result["loss"]["initial"].hex()[:12])
    assert len({item[:4] for item in seen.values()}) == 1, seen
    other = run("method=full", "max_steps=3", "seed=1", folder=tmp_path / "other")
    assert other["provenance"]["batch_order_hash"] != seen["full"][1]


def test_dropout_and_new_modules_do_not_move_the_data(run, tmp_path):
    plain = run("method=lora", folder=tmp_path / "plain")
    dropped = run("method=lora", "lora_dropout=0.5", "lora_rank=2", folder=tmp_path / "dropped")
    assert plain["provenance"]["batch_order_hash"] == dropped["provenance"]["batch_order_hash"]
    assert [line["tokens"] for line in plain["curve"] if "loss" in line] == [
        line["tokens"] for line in dropped["curve"] if "loss" in line]
