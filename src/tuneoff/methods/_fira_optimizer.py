"""Fira's optimizer: pytorch-optimizer's, mended. Imports torch at its head."""

from typing import Any

import torch
from pytorch_optimizer.optimizer import fira
from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

from tuneoff.methods._host_reads import NoHostReads
from tuneoff.methods._projected_state import ProjectedState


class FiniteProjector(GaLoreProjector):
    """pytorch-optimizer's projector, without a LinAlgError on a gradient that is not finite."""

    def get_orthogonal_matrix(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """As upstream; the loop reports such a gradient as `diverged at step n`."""
        finite = weights.nan_to_num(0.0, 0.0, 0.0)
        return super().get_orthogonal_matrix(finite, *args, **kwargs)


class FiraAdamW(NoHostReads, ProjectedState, fira.Fira):
    """A state of plain values, and no wait for each weight's norm."""

    upstream_module = fira
    learned = ("ortho_matrix", "last_svd_step")

    def _make_projector(self, group: dict, parameter: torch.Tensor) -> Any:
        """As upstream."""
        return FiniteProjector(
            rank=group["rank"],
            update_proj_gap=group["update_proj_gap"],
            scale=group["scale"],
            projection_type=group["projection_type"],
        )
