"""NEFTune: noise of the size that was asked for, in training alone, from the generator that checkpoints keep."""

import math

import torch
from torch import nn

from tuneoff.training.embedding_noise import add_embedding_noise


class Small(nn.Module):
    """A model as far as its embeddings."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 16)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


def test_training_rows_come_with_noise_and_evaluation_without():
    model = Small()
    ids = torch.arange(6).view(2, 3)
    clean = model.embed(ids)
    add_embedding_noise(model, 0.0)
    assert torch.equal(model.embed(ids), clean)
    add_embedding_noise(model, 5.0)
    torch.manual_seed(0)
    noise = model.embed(ids) - clean
    largest = 5 / math.sqrt(3 * 16)
    assert 0.9 * largest < noise.abs().max() <= largest * 1.0001
    assert abs(noise.mean()) < 0.2 * largest
    torch.manual_seed(0)
    assert torch.equal(model.embed(ids) - clean, noise)
    model.eval()
    assert torch.equal(model.embed(ids), clean)


def test_a_run_is_noisy_and_starts_at_the_base_model(run, tmp_path):
    words = ["method=lora", "max_steps=2"]
    clean = run(*words, folder=tmp_path / "clean")
    noisy = run(*words, "neftune_alpha=20", folder=tmp_path / "noisy")
    assert noisy["loss"]["initial"] == clean["loss"]["initial"]
    first = [
        next(line["loss"] for line in result["curve"] if "loss" in line)
        for result in (clean, noisy)
    ]
    assert first[0] != first[1]
