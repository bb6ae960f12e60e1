"""Adam-mini: pytorch-optimizer's, with the groups and the rates of this framework."""

from typing import Any

import pytorch_optimizer
import torch

from tuneoff.config import ConfigError


class BlocksOfHeads(pytorch_optimizer.AdamMini):
    """Adam-mini (Zhang et al. 2024), which knows a head's size where it is not the width through the heads.

    It makes a group of each weight, by its name.
    """

    def __init__(self, model: Any, head_size: int, **settings: Any):
        self.head_size = head_size
        super().__init__(model, weight_decay=0.0, **settings)

    def get_optimizer_groups(self, weight_decay: float) -> list[dict]:
        """As upstream; a block of queries or keys is a head's rows of the matrix."""
        groups = super().get_optimizer_groups(weight_decay)
        for group in groups:
            if "parameter_per_head" in group and group["params"].ndim == 2:
                group["parameter_per_head"] = self.head_size * group["params"].shape[1]
        return groups


class AdamMini(torch.optim.Optimizer):
    """Adam-mini over the groups that every optimizer here has, which share rates, decay and state with its own."""

    def __init__(
        self,
        groups: list[dict],
        lr: float,
        model: Any,
        **adam_settings: Any,
    ):
        super().__init__(groups, {"lr": lr, "step": 0})
        config = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        if not heads:
            raise ConfigError(
                "optimizer",
                "adam_mini",
                "needs a model with attention heads, whose blocks it counts",
            )
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        # Upstream wants a width that its heads divide, and takes it for nothing else here.
        width = head_size * heads
        self.inner = BlocksOfHeads(
            model, head_size, lr=lr, num_embeds=width, num_heads=heads, **adam_settings
        )
        self.inner.state = self.state
        # By number, since loading a state replaces the group dictionaries.
        number_of = {}
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                number_of[parameter] = number
        self.owners = [number_of[own["params"][0]] for own in self.inner.param_groups]

    def step(self, closure: Any = None) -> Any:
        """Let the inner one step at the rates of the groups here."""
        loss = None if closure is None else closure()
        for own, number in zip(self.inner.param_groups, self.owners, strict=True):
            group = self.param_groups[number]
            for key in ("lr", "weight_decay", "step"):
                own[key] = group[key]
        self.inner.step()
        for group in self.param_groups:
            group["step"] += 1
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self.inner.state = self.state
