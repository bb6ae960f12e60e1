"""The loop trains every method, records what happened, and says so when it ends badly."""
import pytest
from conftest import METHODS

from tuneoff import record


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_leaves_a_whole_record(run, tmp_path, method):
    result = run(f"method={method}", "test=true", "eval_every=2", "galore_rank=8" if "galore" in method else "seed=0")
    assert result["status"] == "finished", result["error"]
    assert result["loss"]["final"] != result["loss"]["initial"]  # whether it learns is shown on the pretrained model
    assert result["loss"]["test"] > 0
    assert set(result["memory"]["peak_gib"]) == {"load", "train", "evaluate"}
    counts = result["parameters"]
    assert 0 < counts["trainable"] <= counts["ever_trained"] <= counts["total"]
    lines = list(record.read_metrics(tmp_path / "run"))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert result == record.read_json(tmp_path / "run" / "result.json")
