"""Scales: vectors of factors that a tuner keeps in the shape of a matrix, which no optimizer shall take for one."""

from torch import nn
from torch._guards import detect_fake_mode


def is_scale(parameter: nn.Parameter) -> bool:
    """Whether a new parameter is a vector in the shape of a matrix, as (n, 1), that begins at 1 throughout."""
    if max(parameter.shape, default=0) < parameter.numel():
        return False
    has_values = parameter.device.type != "meta" and detect_fake_mode() is None
    return has_values and bool((parameter == 1).all())
