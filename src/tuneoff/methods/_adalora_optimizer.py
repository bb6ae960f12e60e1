"""AdaLoRA's part in an optimizer: its regulariser, and the ranks that shrink. Imports torch at its head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode

# What PEFT's allocator has learned of each parameter's importance.
SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def add_regulariser(tuner: Any, weight: float) -> None:
    """Add the gradients of `weight` times the mean of |A Aᵀ - I| and |Bᵀ B - I| over all adapters.

    Source: `AdaLoraModel.forward`, which adds the term to a loss that it computes itself.
    """
    terms = []
    for name, parameter in tuner.model.named_parameters():
        if "lora_A" in name:
            gram = parameter @ parameter.T
        elif "lora_B" in name:
            gram = parameter.T @ parameter
        else:
            continue
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        terms.append(torch.norm(gram - identity))
    term = weight * torch.stack(terms).mean()
    term.backward()


class RankAllocation:
    """Shrinks the ranks after each step of an optimizer, and keeps in the optimizer's state what that needs."""

    def __init__(self, tuner: Any):
        self.tuner = tuner
        self.steps = 0

    def shrink(self, *step: Any) -> None:
        """Call PEFT's allocator, which reads the gradients of the step that was taken."""
        if detect_fake_mode() is None:
            self.tuner.update_and_allocate(self.steps)
        else:  # the least important are found by their values, which a prediction does not have
            self.tuner.rankallocator.update_ipt(self.tuner.model)
        self.steps += 1

    def list_scores(self) -> list[torch.Tensor]:
        """The importance of each parameter."""
        allocator = self.tuner.rankallocator
        return [score for name in SCORES for score in getattr(allocator, name).values()]

    def add_state(self, optimizer: Any, state: dict) -> dict:
        """Return the optimizer's state with the steps taken, the scores, and the ranks that are left."""
        allocator = self.tuner.rankallocator
        own = {name: getattr(allocator, name) for name in SCORES}
        own["steps"] = self.steps
        own["rank_pattern"] = read_config(self.tuner).rank_pattern
        return {**state, "allocation": own}

    def take_state(self, optimizer: Any, state: dict) -> dict:
        """Take over what `add_state` gave; returns the rest, which is the optimizer's own."""
        rest = dict(state)
        own = rest.pop("allocation")
        for name in SCORES:
            setattr(self.tuner.rankallocator, name, own[name])
        self.steps = own["steps"]
        read_config(self.tuner).rank_pattern = own["rank_pattern"]
        return rest


def allocate_ranks(optimizer: Any, tuner: Any) -> Any:
    """Let an optimizer shrink the ranks of the adapters of PEFT's `tuner` after each of its steps."""
    allocation = RankAllocation(tuner)
    optimizer.register_step_post_hook(allocation.shrink)
    optimizer.register_state_dict_post_hook(allocation.add_state)
    optimizer.register_load_state_dict_pre_hook(allocation.take_state)
    optimizer.extra_state_tensors = allocation.list_scores
    return optimizer


def read_config(tuner: Any) -> Any:
    """The adapter's configuration, in which PEFT keeps the ranks."""
    return tuner.peft_config[tuner.trainable_adapter_name]


@contextmanager
def ranks_of_weights(tuner: Any) -> Iterator[None]:
    """Let PEFT save the singular values that are not 0, for this block.

    Its own list is that of the last pruning. After that the pruned ones may have been trained again, and the weights
    may be those of an earlier step.
    """
    config = read_config(tuner)
    of_last_pruning = config.rank_pattern
    if of_last_pruning is not None:  # else nothing was pruned, and all may be 0 from the start
        left = {}
        for name, weight in tuner.model.named_parameters():
            if "lora_E" in name:
                left[name] = (weight != 0).view(-1).tolist()
        config.rank_pattern = left
    try:
        yield
    finally:
        config.rank_pattern = of_last_pruning
