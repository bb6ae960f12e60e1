"""LOMO's optimizers: others' SGD and Adafactor, inside the backward pass. Imports torch at its head."""

import torch
from transformers import optimization

from tuneoff.methods._host_reads import NoHostReads
from tuneoff.methods._inside_backward import LayerWise


class Lomo(LayerWise, torch.optim.SGD):  # type: ignore[misc]  # a step of no closure
    """LOMO (Lv et al. 2023): SGD without momentum, and so without a state."""


class AdaLomo(LayerWise, NoHostReads, optimization.Adafactor):  # type: ignore[misc]
    """AdaLOMO (Lv et al. 2023): Adafactor at a rate of ours times the size of a weight's entries."""

    upstream_module = optimization

    def __init__(self, groups: list[dict], lr: float):
        super().__init__(groups, lr=lr, scale_parameter=True, relative_step=False)
