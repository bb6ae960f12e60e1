"""A model of any shape, prepared by a method."""

import pytest
import torch
from adapted_models import build


@pytest.fixture
def prepare(settings):
    """`prepare(shape, "method=lora", …)`: (adapted model, method, experiment)."""

    def make(shape, *overrides, change=None):
        experiment, method, _ = settings(*overrides)
        model = build(shape, change)
        torch.manual_seed(4)
        return method.prepare(model), method, experiment

    return make
