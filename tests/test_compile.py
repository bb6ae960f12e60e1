"""compile=true trains to the losses of the layers as they are, says what compiling took, and never gives it up unseen."""

from array import array
from types import SimpleNamespace

import pytest
import torch
from helpers import METHODS, apart

from tuneoff import record
from tuneoff.config import ConfigError
from tuneoff.config.compiler import check_compile
from tuneoff.data import Row, StepOrder, collate
from tuneoff.training import compilation
from tuneoff.training.compilation import choose_lengths

STEPS = 20
LENGTHS = ["max_length=96", "data.limit=24"]
OWN = {
    "galore": ["galore_rank=8", "galore_update_interval=5"],
    "galore_layerwise": ["galore_rank=8", "galore_update_interval=5"],
    "badam": ["badam_switch_interval=4"],
    "badam_ratio": ["badam_switch_interval=4"],
}


def make_rows(*lengths: int) -> list[Row]:
    """Rows of so many tokens, of which the last two are trained."""
    return [Row(array("i", range(length)), ((length - 2, length),)) for length in lengths]


@pytest.fixture
def without_code(monkeypatch):
    """All of compiling but the generated code: it takes a tenth of the time, and computes what eager does."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")


def losses(folder) -> list[float]:
    return [line["loss"] for line in record.read_metrics(folder) if "loss" in line]


# ---------------------------------------------------------------- lengths
def test_lengths_are_few_and_hold_every_row():
    order = StepOrder(make_rows(*range(5, 62)), seed=0, rows_per_step=4)
    lengths = choose_lengths(order, steps=14, batch_size=2)
    assert len(lengths) <= compilation.LENGTHS and lengths[-1] == 61
    assert all(length % compilation.MULTIPLE == 0 for length in lengths[:-1])
    assert lengths == choose_lengths(order, steps=14, batch_size=2)


def test_rows_of_one_length_are_not_padded():
    order = StepOrder(make_rows(31, 31, 31, 31), seed=0, rows_per_step=2)
    assert choose_lengths(order, steps=2, batch_size=2) == (31,)


def test_a_batch_takes_the_first_length_that_holds_it():
    rows = make_rows(5, 9)
    batch = collate(rows, pad=0, lengths=(8, 12, 16))
    assert batch.input_ids.shape == (2, 12)
    plain = collate(rows, pad=0)
    assert torch.equal(batch.labels, plain.labels)
    assert torch.equal(batch.keep % 12, plain.keep % 9)
    assert collate(rows, pad=0, lengths=(4,)).input_ids.shape == (2, 9)


# ---------------------------------------------------------------- what is computed
@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "dora"])
def test_compiled_layers_train_to_the_same_losses(run, monkeypatch, tmp_path, method):
    monkeypatch.setattr(compilation, "LENGTHS", 2)  # each takes a minute or more to compile
    words = [f"method={method}", f"max_steps={STEPS}", *LENGTHS]
    plain = run(*words, folder=tmp_path / "plain")
    compiled = run(*words, "compile=true", folder=tmp_path / "compiled")
    assert compiled["status"] == "finished", compiled["error"]
    difference = apart(losses(tmp_path / "plain"), losses(tmp_path / "compiled"))
    assert difference < 1e-5
    throughput = compiled["throughput"]
    assert throughput["compile_seconds"] > 1 > throughput["step_seconds"]["p99"]
    assert throughput["compilation"]["graph_breaks"] == 0
    counted = throughput["tflops_per_second"] * throughput["step_seconds"]["p50"]
    expected = plain["throughput"]
    assert counted > 0.2 * expected["tflops_per_second"] * expected["step_seconds"]["p50"]


@pytest.mark.slow
@pytest.mark.rotating
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_compiled_whole(run, without_code, tmp_path, method):
    words = [f"method={method}", "max_steps=8", *LENGTHS, *OWN.get(method, [])]
    run(*words, folder=tmp_path / "plain")
    result = run(*words, "compile=true", folder=tmp_path / "compiled")
    assert result["status"] == "finished", result["error"]
    assert apart(losses(tmp_path / "plain"), losses(tmp_path / "compiled")) < 1e-5
    compiled = result["throughput"]["compilation"]
    assert compiled["graph_breaks"] == 0 < compiled["graphs"]
    lines = list(record.read_metrics(tmp_path / "compiled"))
    seconds = sum(line["step_seconds"] for line in lines if "loss" in line)
    assert result["throughput"]["train_seconds"] == pytest.approx(seconds, abs=1e-3)
    assert result["throughput"]["compile_seconds"] > 0


@pytest.mark.slow
def test_layers_that_differ_for_ever_end_the_run(run, without_code, monkeypatch):
    monkeypatch.setattr(compilation, "MOST_COMPILED", 1)
    result = run("method=full", "max_steps=8", *LENGTHS, "compile=true")
    assert result["status"] == "failed"
    assert "compile=true: the layers were compiled 1 times" in result["error"]["message"]


# ---------------------------------------------------------------- refusals
def test_no_split_model_is_compiled():
    from tuneoff.config.choices import Task

    split = SimpleNamespace(compile=True, task=Task.train, sharding="fsdp2")
    with pytest.raises(ConfigError, match="compile=true: must be false under fsdp2"):
        check_compile(split)
