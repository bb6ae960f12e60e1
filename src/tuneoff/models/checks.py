"""Checks: what a loaded model cannot do with these settings or data, refused before it trains.

The model itself is asked, since no list of architectures stays true.
"""

import math
from array import array
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tuneoff.config import ConfigError, Experiment
from tuneoff.data import Row, collate, join_rows

TOLERANCE = 1e-5  # of the largest logit
ROUNDINGS = 4  # where the weights are in half precision: of their type's rounding


def max_positions(model: PreTrainedModel) -> float:
    """How many positions the model was made for; infinite where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def check_embeddings(
    model: PreTrainedModel, experiment: Experiment, longest: int, highest: int
) -> None:
    """Refuse data whose `longest` row or `highest` token the model has no embedding for.

    Raises:
        ConfigError: max_length, where positions are learned, or model.tokenizer.
    """
    words: Any = model.get_input_embeddings()
    if highest >= words.num_embeddings:
        raise ConfigError(
            "model.tokenizer",
            experiment.model.tokenizer or experiment.model.path,
            f"gives token {highest}, and the model has {words.num_embeddings}",
        )
    learned = any(
        isinstance(module, nn.Embedding) and module is not words for module in model.modules()
    )
    if learned and longest > (most := max_positions(model)):
        raise ConfigError(
            "max_length",
            experiment.max_length,
            f"must be at most {most}, the positions that were learned",
        )


def check_packing(model: Any) -> None:
    """Refuse `packing` for a model in which a packed example is not what it is alone.

    Two tests in one small forward pass of two rows, [a, b] and [b, padding], as training packs them. The derivative of
    packed b's logits by a's embeddings is exactly zero where a is masked, in any precision. And packed b's logits are
    those of b at a row's beginning up to rounding, which is coarse in half precision and so would not do alone.

    Raises:
        ConfigError: b sees a, or is read at other positions.
    """
    embeddings = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(embeddings.weight.shape[0], (16,), generator=generator).tolist()
    first, second = (Row(array("i", part), ((1, len(part)),)) for part in (ids[:7], ids[7:]))
    batch = collate([join_rows([first, second]), second], pad=0).to(embeddings.weight.device)
    found: dict[str, torch.Tensor] = {}

    def watch(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        found["embedded"] = output.detach().requires_grad_()
        return found["embedded"]

    hook, training = embeddings.register_forward_hook(watch), model.training
    try:
        logits = model.eval()(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
    finally:
        hook.remove()
        model.train(training)
    packed, alone = logits[0, len(first.ids) :], logits[1, : len(second.ids)]
    (gradient,) = torch.autograd.grad(packed.float().square().mean(), found["embedded"])
    rounding = torch.finfo(embeddings.weight.dtype).eps
    limit = max(TOLERANCE, ROUNDINGS * rounding) * alone.abs().max().item()
    difference = (packed - alone).abs().max().item()
    kind = f"{model.config.model_type} with model.attention={model.config._attn_implementation}"
    if gradient[0, : len(first.ids)].any():
        raise ConfigError(
            "packing", True, f"an example would see the one packed before it in {kind}"
        )
    if not difference <= limit:
        raise ConfigError(
            "packing",
            True,
            f"packed logits differ by {difference:.1g} (at most {limit:.1g}) in {kind}",
        )
