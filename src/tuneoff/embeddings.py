"""Whether a model has embeddings for all that the data holds: a GPU says so by an abort, a CPU by an IndexError."""
import math
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tuneoff.config import ConfigError, Experiment


def positions(model: PreTrainedModel) -> float:
    """How many positions the model was made for; infinite where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def refuse_strangers(model: PreTrainedModel, run: Experiment, longest: int, highest: int) -> None:
    """Refuse data whose `longest` row or `highest` token the model has no embedding for.

    Raises:
        ConfigError: max_length, where positions are learned, or model.tokenizer.
    """
    words: Any = model.get_input_embeddings()
    if highest >= words.num_embeddings:
        raise ConfigError("model.tokenizer", run.model.tokenizer or run.model.path,
                          f"gives token {highest}, and the model has {words.num_embeddings}")
    learned = any(isinstance(module, nn.Embedding) and module is not words for module in model.modules())
    if learned and longest > (most := positions(model)):
        raise ConfigError("max_length", run.max_length, f"must be at most {most}, the positions that were learned")
