"""Muon: PyTorch's own on hidden matrices, and AdamW on the rest, as one optimizer."""

from typing import Any

import torch

from tuneoff.models.scales import is_scale


def split_matrices(groups: list[dict], model: Any) -> list[dict]:
    """Part each group into matrices inside the model, which Muon steps, and all else, embeddings and head included.

    Returns:
        Groups with the key `orthogonal`, none of them empty.
    """
    ends = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        ends.add(getattr(module, "weight", None))
    parted = []
    for group in groups:
        members: dict[bool, list] = {True: [], False: []}
        for parameter in group["params"]:
            is_matrix = parameter.ndim == 2 and not is_scale(parameter)
            members[is_matrix and parameter not in ends].append(parameter)
        for orthogonal, parameters in members.items():
            if parameters:
                parted.append({**group, "params": parameters, "orthogonal": orthogonal})
    return parted


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW`, each on its own groups, which share rates and state with this one."""

    def __init__(
        self,
        groups: list[dict],
        lr: float,
        weight_decay: float,
        **adamw_settings: Any,
    ):
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.halves: list[tuple[bool, torch.optim.Optimizer]] = []
        matrices = self._list_groups(True)
        if matrices:
            # Scaled like AdamW's steps, so that one rate serves both (Liu et al. 2025).
            muon = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
            self.halves.append((True, muon))
        others = self._list_groups(False)
        if others:
            # Fused on every device, as the shared AdamW is.
            adamw = torch.optim.AdamW(others, lr=lr, fused=True, **adamw_settings)
            self.halves.append((False, adamw))
        self._share()

    def _list_groups(self, orthogonal: bool) -> list[dict]:
        return [group for group in self.param_groups if group["orthogonal"] == orthogonal]

    def _share(self) -> None:
        """Let the halves step on this optimizer's groups and state."""
        for orthogonal, half in self.halves:
            half.param_groups = self._list_groups(orthogonal)
            half.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Step both halves."""
        loss = None if closure is None else closure()
        for _, half in self.halves:
            half.step()
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()
