"""Positions: rows longer than a model has a table for are refused, in training and in a prediction alike."""

import math

import pytest
import torch
from shrunk_models import shrunk_model
from transformers import GPT2Config, GPTJConfig

from tuneoff.config import ConfigError
from tuneoff.models.checks import learned_positions
from tuneoff.predict import predict

SIZES = {"vocab_size": 4096, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}


@pytest.mark.parametrize("config", [GPT2Config(**SIZES), GPTJConfig(**SIZES, rotary_dim=8)])
@pytest.mark.parametrize("task", ["train", "predict"])
def test_rows_beyond_a_table_are_refused(run, settings, tmp_path, config, task):
    config.save_pretrained(tmp_path / "shape")
    shape = [f"model.path={tmp_path / 'shape'}", "model.pretrained=false"]
    words = ["method=full", *shape, "model.tokenizer=tuneoff:tiny", "data.limit=600"]
    with pytest.raises(ConfigError, match="^max_length=96: must be at most 32, the positions that"):
        if task == "train":
            run(*words)
        else:
            experiment, method, _ = settings(*words, "task=predict")
            predict(experiment, method)


@pytest.mark.parametrize("model_type", ["llama", "gemma3n_text"])
def test_what_is_no_table_of_positions_limits_no_row(model_type):
    """Gemma 3n embeds its words once more for each layer."""
    model = shrunk_model(model_type).eval()
    assert learned_positions(model) == math.inf
    longer = model.config.get_text_config().max_position_embeddings + 4
    ids = torch.randint(1, 4000, (1, longer))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    assert logits.shape[1] == longer
