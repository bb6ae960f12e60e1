"""What comes of a prediction: the largest batch, a file beside no result, a run that is not started."""

import pytest
from helpers import ROOT
from hydra import compose, initialize_config_dir
from shrunk_models import shrunk_model
from transformers import LlamaConfig

from tuneoff.config import ConfigError, Model, bind
from tuneoff.jobs.work import PredictWork, TrainWork
from tuneoff.measure.memory_peaks import GIB
from tuneoff.models.shapes import build_config
from tuneoff.predict import predict
from tuneoff.predict.chart import draw_timeline
from tuneoff.predict.closing_table import format_largest_batch
from tuneoff.predict.largest_batch import MOST_ROWS, find_largest_batch
from tuneoff.predict.prediction import CONTEXT_GIB
from tuneoff.predict.predictor import Predictor
from tuneoff.record import read_json


def test_the_largest_batch_is_the_one_before_the_first_that_does_not_fit(settings):
    run, method, _ = settings("method=lora", "task=predict", "gib=0.85")
    found = predict(run, method)["largest_batch"]
    tried = {int(rows): needed for rows, needed in found["needed_gib"].items()}
    assert tried[found["batch_size"]] <= 0.85 < tried[found["batch_size"] + 1]
    again = Predictor(run, method)
    again.train("first step", 4)
    assert again.train("steady step", found["batch_size"]).rounded_bytes / GIB == pytest.approx(
        tried[found["batch_size"]] - CONTEXT_GIB, abs=1e-3
    )


@pytest.mark.parametrize("start", [1, 4, 64])
def test_an_evaluation_of_its_own_size_limits_the_largest_batch(settings, start):
    """Wherever the search begins: a batch whose training fits is none where its evaluation does not."""
    words = ["method=full", "task=predict", f"batch_size={start}", "eval_batch_size=16"]
    run, method, _ = settings(*words, "gib=0.80")
    prediction = predict(run, method)
    found = prediction["largest_batch"]
    assert found["batch_size"] == 0 and found["reason"].startswith("eval_batch_size=16 alone needs")
    assert "none: eval_batch_size=16 alone needs" in format_largest_batch(found)
    run, method, _ = settings(*words, "gib=0.85")
    assert predict(run, method)["largest_batch"]["batch_size"] == 17


def test_a_search_that_ended_at_its_bound_says_so():
    assert format_largest_batch({"batch_size": MOST_ROWS}) == "at least 65,535"
    assert format_largest_batch({"batch_size": 12}) == "12"


def test_what_generates_is_named_as_not_predicted(settings):
    run, method, _ = settings("method=full", "task=predict", "exact_match=whole")
    assert "generation (exact_match)" in predict(run, method)["not_predicted"][-1]


def test_quantised_weights_on_the_hub_are_refused_once_their_config_is_read(settings, monkeypatch):
    run, method, _ = settings("method=full", "task=predict")
    monkeypatch.setattr(
        LlamaConfig, "quantization_config", {"quant_method": "mxfp4"}, raising=False
    )
    with pytest.raises(ConfigError, match="^model.path=.*does not cover quantised weights"):
        predict(run, method)


def test_a_model_that_reads_values_is_named_and_not_its_method(settings, tmp_path):
    shrunk_model("dbrx").config.save_pretrained(tmp_path)
    words = [f"model.path={tmp_path}", "model.pretrained=false", "model.tokenizer=tuneoff:tiny"]
    run, method, _ = settings("method=full", "task=predict", *words)
    with pytest.raises(ConfigError, match="^model.path=.*its own code reads the values"):
        predict(run, method)


@pytest.mark.parametrize("answer", [0, 1, 2, 7, 1000])
def test_the_search_finds_any_answer(answer):
    found, tried = find_largest_batch(
        lambda rows: rows**1.1, (answer + 0.5) ** 1.1, start=4, without_rows=0.0
    )
    assert found == answer and len(tried) < 12


def test_weights_that_are_quantised_are_refused(settings, tmp_path, debug_model):
    (tmp_path / "config.json").write_text(
        (debug_model / "config.json").read_text().replace("{", '{"quantization_config": {}, ', 1)
    )
    for task in ("task=predict", "skip_if_over_gib=1"):
        with pytest.raises(ConfigError, match="quantised"):
            settings("method=lora", task, f"model.path={tmp_path}", "model.pretrained=false")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("hidden_sise=8", "no such size of llama; did you mean hidden_size"),
        ("model_type=lama", "no model type"),
    ],
)
def test_a_shape_that_transformers_does_not_know_is_refused(key, message):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run, method = bind(
            compose(
                "config",
                overrides=[
                    "task=predict",
                    "model=llama_60m",
                    "method=full",
                    f"++model.config.{key}",
                ],
            )
        )
    with pytest.raises(ConfigError, match=message):
        predict(run, method)


def test_a_prediction_is_no_result(settings, tmp_path):
    run, method, config = settings("method=full", "task=predict")
    start = {"identity": "0", "config": config, "method": "full"}
    written = PredictWork(run, method, tmp_path, start).run()
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.json"]
    found = read_json(tmp_path / "prediction.json")
    assert found == written and found["config"] == config
    assert (found["status"], found["method"]) == ("predicted", "full")
    assert set(found["peak_gib"]) == {"prepare", "load", "train", "evaluate"}
    largest_ones = found["largest_tensors"]
    assert len(largest_ones) == 10 and largest_ones == sorted(
        largest_ones, key=lambda item: -item["gib"]
    )
    alike = next(item for item in largest_ones if item["name"] == "model.layers.*.self_attn (add)")
    assert (alike["category"], alike["tensors"]) == (
        "activations",
        6,
    )  # queries and keys, rotated, of three layers
    assert alike["gib"] == pytest.approx(6 * 4 * 96 * 64 * 4 / GIB, abs=1e-6)
    assert (
        set(found["cuda"]) == {"rounding_gib", "context_gib", "source"}
        and len(found["not_predicted"]) == 3
    )
    assert found["needed_gib"] == pytest.approx(
        max(found["peak_gib"].values())
        + found["cuda"]["rounding_gib"]
        + found["cuda"]["context_gib"],
        abs=2e-4,
    )
    assert 100 < len(found["timeline"]["gib"]) <= 200
    heights = [sum(moment.values()) for moment in found["timeline"]["gib"]]
    assert max(heights) == pytest.approx(found["peak_gib"]["train"], abs=3e-4)
    assert draw_timeline(found["timeline"], tmp_path).read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("limit", "status"), [(0.7501, "predicted_out_of_memory"), (2.0, "finished")]
)
def test_a_run_that_would_not_fit_is_recorded_and_not_started(settings, tmp_path, limit, status):
    run, method, config = settings("method=full", f"skip_if_over_gib={limit}", "max_steps=1")
    start = {"identity": "0", "config": config}
    result = TrainWork(run, method, tmp_path, start).run()
    assert result["status"] == status and result == read_json(tmp_path / "result.json")
    assert (result["prediction"]["needed_gib"] > limit) == (status == "predicted_out_of_memory")
    assert (tmp_path / "metrics.jsonl").exists() == (status == "finished")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("head_dim=3", r"^model.config.head_dim=3: such a model cannot be trained: The size of"),
        ("attention_dropout=7", "^model.config.attention_dropout=7: such a model cannot be "),
        ("pad_token_id=100000", "^model.config.pad_token_id=100000: cannot be read: "),
        ("hidden_act=geluu", "^model.config.hidden_act=geluu: is not known to transformers"),
        ("rms_norm_eps=-1", "^model.config.rms_norm_eps=-1: .*: its outputs are not finite"),
        ("rms_norm_eps=abc", "^model.config.rms_norm_eps=abc: must be a number"),
    ],
)
def test_a_size_with_which_no_model_trains_is_named(run, size, message):
    sizes = [
        f"model.config.{key}"
        for key in ("hidden_size=64", "intermediate_size=48", "num_hidden_layers=1", size)
    ]
    with pytest.raises(ConfigError, match=message):
        run("model=llama_60m", "model.path=null", "model.pretrained=false", *sizes)


def test_a_whole_number_does_for_a_size_that_is_none():
    shape = {"model_type": "llama", "attention_dropout": 0, "rms_norm_eps": 1}
    config = build_config(Model("m", config=shape))
    assert (config.attention_dropout, config.rms_norm_eps) == (0, 1)


def test_a_shape_trains_from_scratch_with_the_shipped_tokenizer(run):
    sizes = [
        f"model.config.{key}"
        for key in ("hidden_size=32", "intermediate_size=48", "num_hidden_layers=2")
    ]
    result = run(
        "model=llama_60m", "model.path=null", "model.pretrained=false", "method=full", *sizes
    )
    assert result["status"] == "finished", result["error"]
    with pytest.raises(ConfigError, match="vocab_size"):
        run(
            "model=llama_60m",
            "model.path=null",
            "model.pretrained=false",
            "method=full",
            *sizes,
            "model.config.vocab_size=100",
            folder=None,
        )
