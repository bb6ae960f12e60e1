"""Noise on the embeddings of training rows: NEFTune (Jain et al. 2023), which answers longer and better for it."""

import math
from typing import Any

import torch


def add_embedding_noise(model: Any, alpha: float) -> None:
    """Let the model's embeddings come with noise where it trains, and without where it is evaluated.

    It is drawn from torch's global generator, as dropout is: seeded for each rank, and kept in checkpoints.

    Args:
        model: what trains; adapters may be around it.
        alpha: each number is drawn evenly from [-m, m], where m = alpha / sqrt(tokens of a row x width). 0: no noise.
    """
    if not alpha:
        return

    def add_noise(module: Any, inputs: Any, embeddings: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embeddings
        # (rows, tokens, width); tokens are those of the padded batch, as in transformers.
        tokens, width = embeddings.shape[-2:]
        largest = alpha / math.sqrt(tokens * width)
        noise = torch.zeros_like(embeddings).uniform_(-largest, largest)
        return embeddings + noise

    model.get_input_embeddings().register_forward_hook(add_noise)
