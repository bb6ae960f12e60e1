"""AdaLoRA's part in an optimizer: its regulariser, and the ranks that shrink. Imports torch at its head."""

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
    """In front of an optimizer's class: shrinks the ranks after each step, and keeps in its state what that needs."""

    tuner: Any
    steps: int

    def step(self, closure: Any = None) -> Any:
        """As the optimizer's own; then PEFT's allocator, which reads the gradients of this step."""
        loss = super().step(closure)  # type: ignore[misc]
        if detect_fake_mode() is None:
            self.tuner.update_and_allocate(self.steps)
        else:  # the least important are found by their values, which a prediction does not have
            self.tuner.rankallocator.update_ipt(self.tuner.model)
        self.steps += 1
        return loss

    def extra_state_tensors(self) -> list[torch.Tensor]:
        """The importance of each parameter."""
        allocator = self.tuner.rankallocator
        return [score for name in SCORES for score in getattr(allocator, name).values()]

    def state_dict(self) -> dict:
        """As the optimizer's own, with the steps taken, the scores, and the ranks that are left."""
        allocator = self.tuner.rankallocator
        own = {name: getattr(allocator, name) for name in SCORES}
        own["steps"] = self.steps
        own["rank_pattern"] = self._config.rank_pattern
        return {**super().state_dict(), "allocation": own}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave."""
        rest = dict(state_dict)
        own = rest.pop("allocation")
        super().load_state_dict(rest)  # type: ignore[misc]
        for name in SCORES:
            setattr(self.tuner.rankallocator, name, own[name])
        self.steps = own["steps"]
        self._config.rank_pattern = own["rank_pattern"]

    @property
    def _config(self) -> Any:
        """The adapter's configuration, in which PEFT keeps the ranks."""
        return self.tuner.peft_config[self.tuner.trainable_adapter_name]


def allocate_ranks(optimizer: Any, tuner: Any) -> Any:
    """Put `RankAllocation` in front of an optimizer's class, for the adapters of PEFT's `tuner`."""
    own_class = type(optimizer)
    optimizer.__class__ = type(f"AdaLoRA{own_class.__name__}", (RankAllocation, own_class), {})
    optimizer.tuner = tuner
    optimizer.steps = 0
    return optimizer
